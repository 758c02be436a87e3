"""Git over http(s): the files of a commit, without its history.

One small answer tells what the commit holds (a shallow fetch without contents). Then everything
comes in one pack, which a worker takes apart, but for files in Git LFS, which come one by one.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qs, quote

from cachd.errors import ConfigInvalid, ContentError
from cachd.metadata import tidy
from cachd.model import Auth, Digest, Plan, PlannedFile, UnpackRule
from cachd.names import check_tree
from cachd.sources.base import Location
from cachd.sources.census import MAX_FILES, Census
from cachd.sources.git_location import parse
from cachd.sources.http_rules import origin_of
from cachd.sources.patterns import is_wanted, none_wanted
from cachd.sources.trust import connect_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from cachd.credentials import Credentials, SourceOptions
    from cachd.model import Connect
    from cachd.settings import SourcesSettings
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.git_client import GitClient, Links
    from cachd.sources.git_location import GitAddress
    from cachd.sources.git_tree import Pointer

PACK = "pack"
"""What the plan calls the answer with everything that isn't in LFS."""

_KEPT = 16
_KEPT_FILES = 200_000
_INFLATED_MOST = 8
"""Times ``max_listing`` that a listing may take when it is inflated."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a directory of a commit holds. ``files``: paths of what the pack has; ``links``: where
    symbolic links lead, as far as that was told."""

    files: frozenset[str]
    pointers: Mapping[str, Pointer]
    links: Mapping[str, str]
    is_file: bool
    modules: tuple[str, ...]


class GitSource:
    """The ``Source`` of git servers that speak smart HTTP. For each plan the server is asked with
    the caller's pass; what a commit holds is remembered for a while."""

    schemes = ("git", "git+https", "git+http")

    def __init__(self) -> None:
        self._listings: OrderedDict[tuple[str, str, str], _Listing] = OrderedDict()

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Raises UriInvalid. The daemon's own pass is bound to a host by its settings."""
        address = parse(uri)
        return Location(
            scheme="git",
            uri=address.uri,
            origin=f"git+{origin_of(address.repository)}",
            is_default_origin=True,
            options=options.without_s3(),
            # Many hosts take a token as the user's name.
            secret_query=f"username={quote(address.username)}" if address.username else "",
        )

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """Raises NotFound, AccessError, OriginError, ContentError, PathUnsafe."""
        at = await _at(request, context)
        async with at.session() as git:
            commit, listing = await self._listing(git, at)
            wanted = _wanted(listing, request)
            links = await git.links(_pointers(listing, wanted))
            auth = at.auth(git, links)
            files, rules = _files(git, at.address, commit, listing, wanted, request)
        check_tree(wanted)
        return Plan(
            revision=commit,
            files=files,
            auth=auth,
            connect=at.connect,
            unpack="rules",
            rules=rules,
            is_immutable=bool(at.address.commit),
            is_read_proven=True,
            is_credentialed=at.has_pass,
            metadata=tidy(
                {"commit": commit, "version": at.address.ref, "endpoint": git.base},
            ),
        )

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """Whoever may see a repository's refs may read all of it."""
        at = await _at(request, context)
        async with at.session():
            pass

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """The same pass again, and fresh links into LFS."""
        at = await _at(request, context)
        async with at.session() as git:
            await self._listing(git, at)
            # The fetch may be of a commit that the ref has left meanwhile.
            pointers = {
                pointer.oid: pointer
                for key, listing in self._listings.items()
                if key[0] == git.base and key[2] == at.address.path
                for pointer in _pointers(listing, _wanted(listing, request, is_lenient=True))
            }
            return at.auth(git, await git.links(list(pointers.values()), is_lenient=True))

    async def _listing(self, git: GitClient, at: _At) -> tuple[str, _Listing]:
        """The commit that is meant, and what it holds: what names a commit names its content."""
        commit = at.address.commit or (await git.find(at.address.ref)).commit
        key = (git.base, commit, at.address.path)
        found = self._listings.get(key)
        if found is None:
            most = int(at.context.settings.git.max_listing)
            body = await git.listing(commit, most)
            found = await asyncio.to_thread(_read, body, commit, at.address, most)
            self._listings[key] = found
        self._listings.move_to_end(key)
        while len(self._listings) > 1 and (
            len(self._listings) > _KEPT
            or sum(len(one.files) for one in self._listings.values()) > _KEPT_FILES
        ):
            self._listings.popitem(last=False)
        return commit, found


@dataclass(frozen=True, slots=True)
class _At:
    """Where and as whom one request is made."""

    request: SourceRequest
    context: SourceContext
    address: GitAddress
    connect: Connect
    credentials: Credentials
    basic: str = field(repr=False)
    who: str

    @property
    def has_pass(self) -> bool:
        return bool(self.basic or self.host_headers or self.credentials.client_pem)

    @property
    def host_headers(self) -> tuple[tuple[str, str], ...]:
        from cachd.sources.http_client import headers_for  # noqa: PLC0415  (heavy)

        return headers_for(self.credentials, self.address.repository)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[GitClient]:
        """With a server that has let this caller in."""
        from cachd.sources.git_client import GitClient  # noqa: PLC0415
        from cachd.sources.http_client import client_for  # noqa: PLC0415

        headers = {"Authorization": self.basic} if self.basic else {}
        async with client_for(self.request, self.context, self.connect, self.credentials) as http:
            git = GitClient(http, self.address.repository, headers, self.who)
            await git.greet()
            yield git

    def auth(self, git: GitClient, links: Links) -> Auth:
        from cachd.sources.http_client import headers_for  # noqa: PLC0415

        headers = (*headers_for(self.credentials, git.base), *git.headers.items())
        if not headers and not links.signed:
            return Auth()
        host = origin_of(git.base).partition("://")[2]
        return Auth(
            kind="headers", headers=headers, host=host, signed=links.signed, expires=links.expires
        )


async def _at(request: SourceRequest, context: SourceContext) -> _At:
    address = parse(request.location.uri)
    own = context.settings.git
    credentials = request.used_credentials
    username, password, whose = "", "", "nobody"
    if request.identity == "caller" and not credentials.anonymous:
        named = parse_qs(credentials.query).get("username", [""])[0]
        username, password = named or credentials.username, credentials.password
        whose = "the caller's user and password" if password else "the caller's user"
    elif request.identity == "daemon" and own.host and own.host.lower() == address.host:
        username, whose = own.username or "", "the daemon's own user and password"
        password = await asyncio.to_thread(_read_password, own.password_file)
    basic = ""
    if username or password:
        basic = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    connect = await connect_of(
        request.location.options, ca_bundle=own.ca_bundle, client_pem=credentials.client_pem
    )
    return _At(request, context, address, connect, credentials, basic, whose if basic else "nobody")


def _read_password(file: Path | None) -> str:
    try:
        return file.read_text("utf-8").strip() if file else ""
    except (OSError, ValueError):
        raise ConfigInvalid(
            "sources.git.password_file can't be read", hint="mount the file, or correct its path"
        ) from None


# --- what a commit holds ---------------------------------------------------------------------


def _read(body: bytes, commit: str, address: GitAddress, most: int) -> _Listing:
    """The listing of a shallow answer: in memory, within bounds. Raises ContentError."""
    from cachd.sources.git_pack import BLOB, COMMIT, TREE, Pack  # noqa: PLC0415
    from cachd.sources.git_pkt import PackStream  # noqa: PLC0415
    from cachd.sources.git_tree import (  # noqa: PLC0415
        POINTER_MOST,
        leaves_of,
        pointer_of,
        resolve_link,
    )

    inflated = 0

    def count(length: int) -> None:
        nonlocal inflated
        inflated += length
        if inflated > _INFLATED_MOST * most:
            _too_large(most)

    pack = Pack(
        PackStream(io.BytesIO(body)),
        count=count,
        scratch=lambda _: io.BytesIO(),
        check_number=lambda number: _too_large(most) if number > 2 * MAX_FILES else None,
    )
    objects = pack.small(frozenset({COMMIT, TREE}), _INFLATED_MOST * most)
    blobs = {
        entry.name: content.read_at(0, content.size)
        for entry, _, content in pack.walk(frozenset({BLOB}), with_plain=True)
        if content.size < POINTER_MOST
    }
    census, modules = Census(address.uri), list[str]()
    files, pointers, links = set[str](), dict[str, "Pointer"](), dict[str, str]()
    is_file = False
    for leaf in leaves_of(objects, commit, address.path, modules.append):
        census.count(leaf.path)
        files.add(leaf.path)
        is_file = leaf.is_named
        data = blobs.get(leaf.name, b"")
        if leaf.is_link:
            end = resolve_link(leaf.path, data.decode("utf-8", "replace"))
            links[leaf.path] = end or ""
        elif pointer := pointer_of(data):
            pointers[leaf.path] = pointer
    return _Listing(frozenset(files), pointers, links, is_file, tuple(modules))


def _too_large(most: int) -> NoReturn:
    raise ContentError(
        f"the list of the commit's files inflates to more than {_INFLATED_MOST * most} bytes",
        hint="raise sources.git.max_listing",
    )


def _wanted(listing: _Listing, request: SourceRequest, *, is_lenient: bool = False) -> list[str]:
    """The paths, with links into LFS as files of it. Raises NotFound."""
    found = sorted(
        path
        for path in listing.files
        if listing.is_file or is_wanted(path, request.allow, request.ignore)
    )
    if not found and not is_lenient:
        raise none_wanted(request.location.uri, request.allow, request.ignore)
    return found


def _pointers(listing: _Listing, wanted: list[str]) -> list[Pointer]:
    found = (_pointer_at(listing, path) for path in wanted)
    return list({pointer.oid: pointer for pointer in found if pointer}.values())


def _files(
    git: GitClient,
    address: GitAddress,
    commit: str,
    listing: _Listing,
    wanted: list[str],
    request: SourceRequest,
) -> tuple[tuple[PlannedFile, ...], tuple[UnpackRule, ...]]:
    """The pack, unless all is in LFS, and the objects of LFS; and what becomes of them."""
    from cachd.sources.git_client import PACK_HEADERS  # noqa: PLC0415
    from cachd.sources.git_pkt import fetch_request  # noqa: PLC0415

    of_lfs = {path: p for path in wanted if (p := _pointer_at(listing, path)) is not None}
    objects = {pointer.oid: pointer for pointer in of_lfs.values()}
    files = [
        PlannedFile(
            path=f"lfs/{oid}",
            url=git.lfs_url(oid),
            size=pointer.size,
            digest=Digest(algorithm="sha256", value=oid),
        )
        for oid, pointer in sorted(objects.items())
    ]
    rules = [
        UnpackRule(file=f"lfs/{pointer.oid}", kind="file", into=path)
        for path, pointer in of_lfs.items()
    ]
    if len(of_lfs) < len(wanted):
        files.append(
            PlannedFile(
                path=PACK,
                url=f"{git.base}/git-upload-pack",
                size=None,
                ranges=False,
                post=fetch_request(commit, is_filtered=False),
                headers=PACK_HEADERS,
            )
        )
        detail = {
            "commit": commit,
            "path": address.path,
            "allow": [] if listing.is_file else list(request.allow),
            "ignore": [] if listing.is_file else list(request.ignore),
            "skip": sorted(of_lfs),
        }
        rules.append(UnpackRule(file=PACK, kind="git", detail=detail))
    return tuple(files), tuple(rules)


def _pointer_at(listing: _Listing, path: str) -> Pointer | None:
    """Of a file in LFS, or of a link that leads to one in the end."""
    seen: set[str] = set()
    while path in listing.links and path not in seen:
        seen.add(path)
        path = listing.links[path]
    return listing.pointers.get(path)
