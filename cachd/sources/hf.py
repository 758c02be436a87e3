"""``hf://``: the Hugging Face Hub, and whatever speaks its HTTP API.

huggingface.co/docs/hub/api; what its client calls (huggingface_hub) is what mirrors answer. First
the commit that the revision means is asked for, then that commit's tree; files are read at
``resolve/COMMIT/PATH``, which sends those in LFS on to another host. The hub's tree says the sha256
of files in LFS and git's name of others; the other host's ETag, which means nothing to us, is no
validator: a commit's file never changes, and the digest is compared.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from cachd.errors import AccessError, ContentError, NotFound
from cachd.metadata import tidy
from cachd.model import Digest, Plan
from cachd.sources.hub_source import HubSource, choose, quoted
from cachd.sources.hub_uri import is_commit
from cachd.sources.hubs import HUGGING_FACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cachd.sources.hub_client import Hub
    from cachd.sources.hub_source import Listed

_NEXT = re.compile(r"<([^<>]*)>\s*;[^,]*\brel\s*=\s*\"?next\"?", re.IGNORECASE)
_SENDABLE = re.compile(r"[\x21-\x7e]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


class HuggingFaceSource(HubSource):
    names = HUGGING_FACE

    async def plan(self, hub: Hub, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
        info, commit = await _commit(hub)
        files = await choose(
            _listed(hub, commit), hub, allow, ignore, lambda path, at: _file_url(hub, at, path)
        )
        return Plan(
            revision=commit,
            files=files,
            auth=hub.auth,
            connect=hub.connect,
            is_immutable=hub.address.is_commit,
            is_credentialed=bool(hub.proof.headers),
            metadata=_metadata(info, hub, commit),
        )

    async def may_read(self, hub: Hub, path: str) -> bool:
        from cachd.sources.hf_errors import check, is_missing_file  # noqa: PLC0415  (heavy)

        answer = await hub.touch("HEAD", _file_url(hub, hub.address.wanted, path))
        if is_missing_file(answer):
            return False
        check(answer, hub)
        return True


def _api(hub: Hub, what: str) -> str:
    kind = "datasets" if hub.address.is_dataset else "models"
    return f"{hub.base}/api/{kind}/{hub.address.repo}/{what}"


def _file_url(hub: Hub, revision: str, path: str) -> str:
    kind = "datasets/" if hub.address.is_dataset else ""
    at = quote(revision, safe="")
    return f"{hub.base}/{kind}{hub.address.repo}/resolve/{at}/{quoted(path)}"


async def _commit(hub: Hub) -> tuple[dict[str, Any], str]:
    """What the hub says of the repository at the revision, and the commit that it means."""
    from cachd.sources.hf_errors import check  # noqa: PLC0415  (heavy)
    from cachd.sources.hub_client import unusable  # noqa: PLC0415

    answer = await hub.get(_api(hub, f"revision/{quote(hub.address.wanted, safe='')}"))
    check(answer, hub)
    info = answer.json()
    commit = info.get("sha") if isinstance(info, dict) else None
    if not isinstance(commit, str) or not is_commit(commit.lower()):
        raise unusable(answer, "names no commit")
    if info.get("disabled") is True:
        raise AccessError(
            f"{hub.address.repo} is disabled at {hub.base}",
            hint="the hub has taken it out of service; its page says why",
        )
    return info, commit.lower()


async def _listed(hub: Hub, commit: str) -> AsyncIterator[Listed]:
    """The files at or below the address's path."""
    path = hub.address.path
    is_empty = True
    try:
        async for entry in _tree(hub, commit, path, is_recursive=True):
            is_empty = False
            yield (*entry, commit)
    except NotFound as error:
        if not path or error.detail.get("origin_code") != "EntryNotFound":
            raise
    if is_empty and path:
        # A tree's path is a directory's; a file is found in the one that it is in.
        async for entry in _tree(hub, commit, path.rpartition("/")[0], is_recursive=False):
            if entry[0] == path:
                yield (*entry, commit)


async def _tree(
    hub: Hub, commit: str, path: str, *, is_recursive: bool
) -> AsyncIterator[tuple[str, int, Digest | None]]:
    """The files of a directory, page by page."""
    from cachd.sources.hf_errors import check  # noqa: PLC0415  (heavy)
    from cachd.sources.hub_client import as_list, unusable  # noqa: PLC0415

    own = _api(hub, f"tree/{commit}{'/' if path else ''}{quoted(path)}")
    query = f"recursive={str(is_recursive).lower()}&expand=false"
    seen = set()
    while True:
        seen.add(query)
        answer = await hub.get(f"{own}?{query}")
        check(answer, hub)
        for entry in as_list(answer, answer.json()):
            if entry.get("type") == "file":
                yield _file(entry, hub)
        following = _NEXT.search(answer.headers.get("Link", ""))
        if following is None:
            return
        # Only where to go on is taken from it: the token isn't for wherever it leads.
        query = _query_of(following[1])
        if not query:
            raise unusable(answer, "names a next page that can't be asked for")
        if query in seen:
            raise unusable(answer, "lists the same page again and again")


def _query_of(link: str) -> str:
    """The query of a URL that a hub wrote, "" where there is none that can be sent."""
    try:
        query = urlsplit(link).query
    except ValueError:
        return ""
    return query if _SENDABLE.fullmatch(query) else ""


def _file(entry: dict[str, Any], hub: Hub) -> tuple[str, int, Digest | None]:
    from cachd.sources.hub_client import size_of  # noqa: PLC0415  (heavy)

    path = entry.get("path")
    if not isinstance(path, str):
        raise ContentError(f"{hub.base} lists a file without a path")
    lfs = entry.get("lfs")
    lfs = lfs if isinstance(lfs, dict) else {}
    size = size_of(lfs.get("size", entry.get("size")), hub.base)
    return path, size, _digest(str(lfs.get("oid") or ""), str(entry.get("oid") or ""), bool(lfs))


def _digest(sha256: str, oid: str, is_lfs: bool) -> Digest | None:
    if is_lfs:
        sha256 = sha256.lower().removeprefix("sha256:")
        return Digest(algorithm="sha256", value=sha256) if _SHA256.fullmatch(sha256) else None
    if _GIT_SHA1.fullmatch(oid.lower()):
        return Digest(algorithm="git-sha1", value=oid.lower())
    return None


def _metadata(info: dict[str, Any], hub: Hub, commit: str) -> dict[str, str]:
    found = {
        "name": info.get("id") or hub.address.repo,
        "author": info.get("author"),
        "version": hub.address.wanted,
        "commit": commit,
        # Of the default branch; of another state nobody says.
        "created": None if hub.address.revision else info.get("lastModified"),
        "endpoint": hub.base,
        "property.library_name": info.get("library_name"),
        "property.pipeline_tag": info.get("pipeline_tag"),
    }
    tags = info.get("tags")
    for tag in tags if isinstance(tags, list) else ():
        if isinstance(tag, str) and tag.startswith("license:"):
            found["property.license"] = tag.removeprefix("license:")
    return tidy(found)
