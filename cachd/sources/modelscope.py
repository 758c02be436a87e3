"""``modelscope://``: ModelScope, by the HTTP API that its client uses (modelscope_hub,
``_legacy_api.py``).

``/api/v1/models/OWNER/NAME/repo/files`` lists files with their sha256 and the commit that each was
last changed by; ``…/repo?Revision=…&FilePath=…`` is a file, most of them at another host. There is
no call for the commit that a branch means now, so a revision of ours is a hash of what is listed.
A listing ends silently at ``_LISTED_MOST`` entries: then each directory is asked for by itself.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cachd.errors import (
    AccessError,
    CachdError,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginError,
)
from cachd.metadata import tidy
from cachd.model import Digest, Plan
from cachd.sources.http_rules import shown
from cachd.sources.hub_source import HubSource, choose
from cachd.sources.hub_uri import is_commit
from cachd.sources.hubs import MODELSCOPE
from cachd.sources.revisions import hash_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cachd.model import PlannedFile
    from cachd.sources.http_client import HttpAnswer
    from cachd.sources.hub_client import Hub
    from cachd.sources.hub_source import Listed

_LISTED_MOST = 3000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelScopeSource(HubSource):
    names = MODELSCOPE

    async def plan(self, hub: Hub, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
        files = await choose(
            _listed(hub), hub, allow, ignore, lambda path, at: _file_url(hub, at, path)
        )
        address = hub.address
        return Plan(
            revision=_revision(files),
            files=files,
            auth=hub.auth,
            connect=hub.connect,
            is_immutable=address.is_commit,
            is_validated=all(file.digest is not None for file in files),
            is_credentialed=bool(hub.proof.headers),
            metadata=tidy(
                {
                    "name": address.repo,
                    "version": address.wanted,
                    "commit": address.revision if address.is_commit else None,
                    "endpoint": hub.base,
                }
            ),
        )

    async def may_read(self, hub: Hub, path: str) -> bool:
        # A GET, for not all of its ways know HEAD; its body isn't read.
        url = _file_url(hub, hub.address.wanted, path)
        answer = await hub.touch("GET", url, Range="bytes=0-0")
        if answer.status == 404:
            return False
        if answer.status != 416:
            await _check(answer, hub)
        return True


def _api(hub: Hub, what: str = "") -> str:
    return f"{hub.base}/api/v1/models/{hub.address.repo}{what}"


def _file_url(hub: Hub, revision: str, path: str) -> str:
    query = {"Revision": revision, "FilePath": path}
    return _api(hub, f"/repo?{urlencode(query, errors='surrogateescape')}")


def _revision(files: Sequence[PlannedFile]) -> str:
    """32 hex digits over path, size and digest of each; the URL holds the commit where there is no
    digest, and no secret."""
    return hash_state([[f.path, f.size, f.digest.value if f.digest else f.url] for f in files])


async def _listed(hub: Hub) -> AsyncIterator[Listed]:
    """The files at or below the address's path."""
    path = hub.address.path
    is_empty = True
    async for entry in _below(hub, path):
        is_empty = False
        yield _file(entry, hub)
    if is_empty and path:
        for entry in await _entries(hub, path.rpartition("/")[0], is_recursive=False):
            if entry.get("Path") == path and entry.get("Type") != "tree":
                yield _file(entry, hub)


async def _below(hub: Hub, root: str) -> AsyncIterator[dict[str, Any]]:
    entries = await _entries(hub, root, is_recursive=True)
    if len(entries) < _LISTED_MOST:
        for entry in entries:
            if entry.get("Type") != "tree":
                yield entry
        return
    entries = await _entries(hub, root, is_recursive=False)
    if len(entries) >= _LISTED_MOST:
        raise ContentError(
            f"{hub.address.repo} has {_LISTED_MOST} files or more in one directory, of which "
            f"{hub.base} doesn't list all",
            hint="name a directory of it: modelscope://owner/model:revision/path",
        )
    for entry in entries:
        if entry.get("Type") != "tree":
            yield entry
            continue
        path = entry.get("Path")
        if not isinstance(path, str) or not path.startswith(f"{root}/" if root else ""):
            raise ContentError(f"{hub.base} lists a directory outside the one asked for")
        if path.rstrip("/") in ("", root):
            raise ContentError(f"{hub.base} lists a directory in itself")
        async for one in _below(hub, path.rstrip("/")):
            yield one


async def _entries(hub: Hub, root: str, *, is_recursive: bool) -> list[dict[str, Any]]:
    from cachd.sources.hub_client import as_list, unusable  # noqa: PLC0415  (heavy)

    query = {"Revision": hub.address.wanted, "Recursive": str(is_recursive)}
    if root:
        query["Root"] = root
    answer = await hub.get(_api(hub, f"/repo/files?{urlencode(query)}"))
    await _check(answer, hub)
    body = answer.json()
    data = body.get("Data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or "Files" not in data:
        raise unusable(answer, "answered with no list of files")
    # Of an empty directory it is null.
    return as_list(answer, data["Files"] or [])


def _file(entry: dict[str, Any], hub: Hub) -> Listed:
    from cachd.sources.hub_client import size_of  # noqa: PLC0415  (heavy)

    path = entry.get("Path")
    if not isinstance(path, str):
        raise ContentError(f"{hub.base} lists a file without a path")
    sha256 = str(entry.get("Sha256") or "").lower()
    digest = Digest(algorithm="sha256", value=sha256) if _SHA256.fullmatch(sha256) else None
    changed = entry.get("Revision")
    commit = str(changed) if is_commit(changed) else hub.address.wanted
    return path, size_of(entry.get("Size"), hub.base), digest, commit


async def _check(answer: HttpAnswer, hub: Hub) -> None:
    """Raises what the answer says, if it is no success. One of 200 may say in its body that it is
    none."""
    code, message = answer.status, ""
    said: object = None
    if answer.body:
        try:
            said = json.loads(answer.body)
        except (ValueError, RecursionError):
            said = None
    if isinstance(said, dict):
        from cachd.sources.hub_client import clip  # noqa: PLC0415  (heavy)

        message = clip(said.get("Message"))
        if code < 400 and said.get("Success") is False:
            code = int(said["Code"]) if str(said.get("Code")) in ("401", "403", "404") else 500
    if code < 400:
        return
    words = f"{hub.base} answered {answer.status}" + (f" ({message})" if message else "")
    if code == 404:
        raise await _absent(hub, words)
    error = _refusal(code, words, answer, hub)
    error.detail["status"] = answer.status
    raise error


async def _absent(hub: Hub, words: str) -> CachdError:
    """Whether it is the revision or the model that isn't there, which only another call tells."""
    address = hub.address
    if (await hub.get(_api(hub))).status < 400:
        return NotFound(
            f"{address.repo} has no revision {address.wanted!r}"
            + (f", or no {address.path} in it" if address.path else "")
            + f": {words}",
            hint="a revision is a branch, a tag or a commit: modelscope://owner/model:revision",
        )
    return NotFound(
        f"there is no {address.repo}, or {hub.who} may not see it: {words}",
        hint="check owner and name; if it is private, send a token that may read it "
        "(MODELSCOPE_API_TOKEN)",
    )


def _refusal(code: int, words: str, answer: HttpAnswer, hub: Hub) -> CachdError:
    repo, has_pass = hub.address.repo, bool(hub.proof.headers)
    if code == 401 and has_pass:
        return CredentialsInvalid(
            f"{hub.who} is refused for {repo}: {words}", hint="is it expired, or of another hub?"
        )
    if code in (401, 403) and not has_pass:
        return CredentialsMissing(
            f"{repo} can't be read without a token: {words}",
            hint="send one that may read it (MODELSCOPE_API_TOKEN)",
        )
    if code == 403:
        return AccessError(
            f"{hub.who} may not read {repo}: {words}",
            hint=f"ask for access at {hub.base}/models/{repo} with that token's account",
        )
    return OriginError(f"{shown(answer.url)} failed: {words}")
