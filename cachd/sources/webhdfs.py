"""``hdfs://``, ``webhdfs://``, ``swebhdfs://``: files of HDFS by WebHDFS."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cachd.errors import CachdError, ContentError, OriginChanged, OriginError
from cachd.metadata import tidy
from cachd.model import Digest, Plan, PlannedFile, Validator
from cachd.names import check_tree, escape
from cachd.sources.archives import unpack_of
from cachd.sources.base import Location
from cachd.sources.census import MAX_SIZE, Census
from cachd.sources.patterns import is_wanted, none_wanted
from cachd.sources.revisions import hash_state
from cachd.sources.trust import connect_of
from cachd.sources.webhdfs_identity import identity_of
from cachd.sources.webhdfs_location import locate, origin_of, parse_namenodes, url_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from cachd.credentials import Credentials, SourceOptions
    from cachd.model import Auth, Connect
    from cachd.settings import SourcesSettings
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.http_client import HttpClient
    from cachd.sources.webhdfs_client import WebHdfs
    from cachd.sources.webhdfs_identity import HdfsIdentity
    from cachd.sources.webhdfs_location import HdfsAddress

RANGE_QUERY = "offset={offset}&length={length}"
_AT_ONCE = 8
_BATCHES_FROM = 1000
"""Entries of a directory from which on it is listed in batches (dfs.ls.limit is 1000)."""

_DEPTH_MOST = 256
_REMEMBERED = 1000
_CRCS = {"COMPOSITE-CRC32C": "crc32c", "COMPOSITE-CRC32": "crc32"}
"""Checksums of the whole file's bytes. ``MD5-of-…MD5-of-…CRC32C``, the default, depends on how the
file was cut into blocks when it was written, and can't be computed of the bytes alone."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """``place``: the file's own path in HDFS."""

    path: str
    place: str
    size: int
    modified: int
    file_id: int


class WebHdfsSource:
    """The ``Source`` of HDFS. WebHDFS has no ETags: a file's time, length and inode number are in
    the revision, and the namenode is asked again at the end of a fetch (``needs_recheck``)."""

    schemes = ("hdfs", "webhdfs", "swebhdfs")

    def __init__(self) -> None:
        self._active: dict[tuple[str, ...], str] = {}

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Raises UriInvalid. A URI that names its own host is at the default origin only if that
        is the daemon's own namenode, for which it may have an identity to lend."""
        configured = settings.hdfs.namenode
        address = locate(uri, options.endpoint, configured, options.root)
        own = parse_namenodes(configured, "sources.hdfs.namenode") if configured else ()
        is_own = address.bases == own or (address.is_named and address.bases[0] in own)
        return Location(
            scheme=uri.partition("://")[0],
            uri=address.uri,
            origin=origin_of(address.bases, {"root": options.root, "user": options.user}),
            is_default_origin=is_own and not options.root and not options.user,
            options=options.without_s3(";".join(address.bases)),
        )

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """Lists what is below the path. Raises NotFound, AccessError, OriginError, PathUnsafe."""
        at = await _at(request, context)
        async with at.client() as client:
            hdfs = self._session(client, at)
            entries = await _list(hdfs, at.address, request)
            self._remember(at, hdfs)
            files = [_planned(hdfs, entry) for entry in entries]
            check_tree(file.path for file in files)
            digests = await _digests(hdfs, entries, context.settings.hdfs.checksums)
            headers = at.headers(hdfs.active)
        return Plan(
            revision=_revision(entries),
            files=tuple(replace(file, digest=digests.get(file.path)) for file in files),
            auth=at.identity.auth(hdfs.active, headers),
            connect=at.connect,
            unpack=unpack_of(files),
            needs_recheck=True,
            is_credentialed=at.identity.has_pass,
            metadata=tidy({"endpoint": hdfs.active}),
        )

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """Reads the file's first byte."""
        at = await _at(request, context)
        async with at.client() as client:
            hdfs = self._session(client, at)
            whole = await hdfs.call("GETFILESTATUS", at.address.path)
            is_file = _status(whole, at.address)["type"] == "FILE"
            path = at.address.path if is_file else _below(at.address.path, plan_file)
            await hdfs.raw("OPEN", path, offset="0", length="1")

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """The same pass again, if the namenode still takes it. Raises OriginChanged where another
        namenode has become the active one: the plan's URLs are at the old one."""
        at = await _at(request, context)
        async with at.client() as client:
            hdfs = self._session(client, at)
            before = self._active.get(at.address.bases, hdfs.active)
            await hdfs.call("GETFILESTATUS", at.address.path)
            self._remember(at, hdfs)
            if hdfs.active != before:
                raise OriginChanged(
                    f"{before} is no longer the active namenode", hint="ask again, at the other"
                )
            return at.identity.auth(hdfs.active, at.headers(hdfs.active))

    def _session(self, client: HttpClient, at: _At) -> WebHdfs:
        from cachd.sources.webhdfs_client import WebHdfs  # noqa: PLC0415  (heavy)

        first = self._active.get(at.address.bases, at.address.bases[0])
        return WebHdfs(client, at.address.bases, at.identity, first)

    def _remember(self, at: _At, hdfs: WebHdfs) -> None:
        if len(self._active) >= _REMEMBERED:
            self._active.clear()
        self._active[at.address.bases] = hdfs.active


@dataclass(frozen=True, slots=True)
class _At:
    """Where and as whom one request is made."""

    request: SourceRequest
    context: SourceContext
    address: HdfsAddress
    identity: HdfsIdentity
    connect: Connect
    credentials: Credentials

    def client(self) -> HttpClient:
        from cachd.sources.http_client import client_for  # noqa: PLC0415  (heavy)

        return client_for(self.request, self.context, self.connect, self.credentials)

    def headers(self, base: str) -> tuple[tuple[str, str], ...]:
        from cachd.sources.http_client import headers_for  # noqa: PLC0415

        return headers_for(self.credentials, base)


async def _at(request: SourceRequest, context: SourceContext) -> _At:
    location = request.location
    options = location.options
    credentials = request.used_credentials
    return _At(
        request,
        context,
        locate(location.uri, options.endpoint, None, options.root),
        await identity_of(request, context.settings),
        await connect_of(
            options,
            ca_bundle=context.settings.hdfs.ca_bundle,
            client_pem=credentials.client_pem,
        ),
        credentials,
    )


# --- listing ---------------------------------------------------------------------------------


async def _list(hdfs: WebHdfs, address: HdfsAddress, request: SourceRequest) -> list[_Entry]:
    """The files, by path. Raises NotFound, ContentError."""
    top = _status(await hdfs.call("GETFILESTATUS", address.path), address)
    if top["type"] == "FILE":
        return [_entry(top, address.path.rpartition("/")[2], address.path, address)]
    census, found = Census(address.uri), []
    folders = [("", top)]
    for _ in range(_DEPTH_MOST):
        gate = asyncio.Semaphore(_AT_ONCE)
        below: list[tuple[str, dict[str, Any]]] = []

        async def visit(
            folder: str, status: dict[str, Any], gate: asyncio.Semaphore, below: list[Any]
        ) -> None:
            async with gate:
                async for child in _children(hdfs, address, folder, status):
                    # A namenode may say what it likes: names are judged as they are.
                    path = f"{folder}/{child['pathSuffix']}" if folder else child["pathSuffix"]
                    if child["type"] == "DIRECTORY":
                        census.count(path)
                        below.append((path, child))
                    elif is_wanted(path, request.allow, request.ignore):
                        census.count(path)
                        found.append(_entry(child, path, _below(address.path, path), address))

        try:
            async with asyncio.TaskGroup() as group:
                for folder, status in folders:
                    group.create_task(visit(folder, status, gate, below))
        except* CachdError as errors:
            raise _first(errors) from None
        folders = below
        if not folders:
            break
    else:
        raise ContentError(
            f"{address.uri} has directories more than {_DEPTH_MOST} deep",
            hint="name the model's own directory",
        )
    if not found:
        raise none_wanted(address.uri, request.allow, request.ignore)
    return sorted(found, key=lambda entry: entry.path)


def _first(errors: BaseExceptionGroup[CachdError]) -> CachdError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CachdError)
    return error


async def _children(
    hdfs: WebHdfs, address: HdfsAddress, folder: str, status: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    path = _below(address.path, folder)
    count = status.get("childrenNum")
    if not (isinstance(count, int) and count > _BATCHES_FROM):
        for child in _statuses(await hdfs.call("LISTSTATUS", path), address):
            yield child
        return
    after: dict[str, str] = {}
    while True:
        answer = await hdfs.call("LISTSTATUS_BATCH", path, **after)
        try:
            listing = answer["DirectoryListing"]
            left = int(listing["remainingEntries"])
            children = _statuses(listing["partialListing"], address)
        except (KeyError, TypeError, ValueError):
            raise _odd(address) from None
        for child in children:
            yield child
        # HttpFS answers with all of them, whatever was asked (HDFS-14663).
        if left <= 0:
            return
        if not children or after == {"startAfter": children[-1]["pathSuffix"]}:
            raise _odd(address)
        after = {"startAfter": children[-1]["pathSuffix"]}


def _statuses(answer: Any, address: HdfsAddress) -> list[dict[str, Any]]:
    try:
        children = answer["FileStatuses"]["FileStatus"]
    except (KeyError, TypeError):
        raise _odd(address) from None
    if not isinstance(children, list):
        raise _odd(address)
    return [_checked(child, address) for child in children]


def _status(answer: Any, address: HdfsAddress) -> dict[str, Any]:
    return _checked(answer.get("FileStatus") if isinstance(answer, dict) else None, address)


def _checked(status: Any, address: HdfsAddress) -> dict[str, Any]:
    if not isinstance(status, dict) or not isinstance(status.get("pathSuffix"), str):
        raise _odd(address)
    if status.get("type") not in {"FILE", "DIRECTORY", "SYMLINK"}:
        raise _odd(address)
    return status


def _entry(status: dict[str, Any], path: str, place: str, address: HdfsAddress) -> _Entry:
    if status["type"] != "FILE":
        raise ContentError(
            f"{address.uri} holds {escape(path)}, a symbolic link",
            hint="those of HDFS are not followed: leave it out by an ignore pattern",
        )
    numbers = (status.get("length"), status.get("modificationTime"), status.get("fileId", 0))
    if not all(isinstance(n, int) and 0 <= n <= MAX_SIZE for n in numbers):
        raise _odd(address)
    size, modified, file_id = (int(number or 0) for number in numbers)
    return _Entry(path, place, size, modified, file_id)


def _odd(address: HdfsAddress) -> OriginError:
    return OriginError(
        f"the namenode's answer about {address.uri} can't be understood",
        hint="does it speak WebHDFS as Apache Hadoop's documentation has it?",
    )


def _below(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}" if name else path


# --- the plan --------------------------------------------------------------------------------


def _planned(hdfs: WebHdfs, entry: _Entry) -> PlannedFile:
    return PlannedFile(
        path=entry.path,
        url=url_of(hdfs.active, entry.place, "OPEN"),
        size=entry.size,
        validator=Validator(),
        range_query=RANGE_QUERY,
    )


def _revision(entries: list[_Entry]) -> str:
    return hash_state([[e.path, e.size, e.modified, e.file_id] for e in entries])


async def _digests(hdfs: WebHdfs, entries: list[_Entry], most: int) -> dict[str, Digest]:
    """Checksums of the whole bytes, where the cluster has such. The first answer tells whether the
    others are worth asking for; that none is had is no error."""
    asked = sorted((e for e in entries if e.size), key=lambda e: (-e.size, e.path))[:most]
    found: dict[str, Digest] = {}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def ask(entry: _Entry) -> None:
        async with gate:
            try:
                answer = await hdfs.call("GETFILECHECKSUM", entry.place)
            except CachdError:
                return
        digest = _crc(answer)
        if digest is not None:
            found[entry.path] = digest

    if asked:
        await ask(asked[0])
    if found:
        await asyncio.gather(*(ask(entry) for entry in asked[1:]))
    return found


def _crc(answer: Any) -> Digest | None:
    try:
        said = answer["FileChecksum"]
        algorithm, value = _CRCS.get(said["algorithm"]), str(said["bytes"]).lower()
    except (KeyError, TypeError):
        return None
    if algorithm is None or not re.fullmatch(r"[0-9a-f]{8}", value):
        return None
    return Digest(algorithm=algorithm, value=value)
