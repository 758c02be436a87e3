"""What a URI of Blob Storage means now: one blob, or the blobs below a prefix.

A prefix is a directory: ``m`` takes ``m/…``, never ``m-hf/…`` (KServe takes both). A blob whose
name is the whole path wins over a directory of the same name, unless it is empty. Directories are
no files: empty blobs whose names end in ``/``, and what accounts with a hierarchical namespace list
for them (metadata ``hdi_isfolder``). Other empty blobs are; KServe leaves them out.

"List Blobs", "Get Blob Properties": Azure's REST reference.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cachd.errors import ContentError, NotFound
from cachd.model import PlannedFile, Validator
from cachd.names import escape
from cachd.sources.azure_client import HEADERS, AzureClient, either, md5_of, quoted
from cachd.sources.azure_location import item_url
from cachd.sources.census import Census
from cachd.sources.patterns import is_wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cachd.model import Plan

_PAGE = "5000"


async def plan_blobs(client: AzureClient, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
    """Raises NotFound, PathUnsafe, AccessError, OriginError."""
    prefix, pinned = client.address.prefix, client.address.pinned
    if not prefix:
        files = await _list(client, "", allow, ignore)
    elif pinned:
        exact = await _look(client, prefix)
        files = [exact] if exact else []
    else:
        found = await asyncio.gather(
            _look(client, prefix),
            _list(client, f"{prefix}/", allow, ignore),
            return_exceptions=True,
        )
        files = either(*found)
    return client.plan(files, is_filtered=bool(allow or ignore), is_immutable=bool(pinned))


async def _look(client: AzureClient, name: str) -> PlannedFile | None:
    """The blob of that very name; None if there is none."""
    pinned = client.address.pinned
    url = item_url(client.base, client.address.container, name, pinned)
    answer = await client.look(url)
    if answer is None or _is_folder({"meta.hdi_isfolder": answer.headers.get(_FOLDER, "")}):
        return None
    found = {
        "Content-Length": answer.headers.get("Content-Length", ""),
        "Etag": answer.headers.get("ETag", ""),
        "Content-MD5": answer.headers.get("Content-MD5", ""),
        "AccessTier": answer.headers.get("x-ms-access-tier", ""),
    }
    version = pinned.removeprefix("versionid=") if pinned.startswith("versionid=") else None
    return _planned(client, name, name.rsplit("/", 1)[-1], found, version=version)


_FOLDER = "x-ms-meta-hdi_isfolder"


def _is_folder(found: Mapping[str, str]) -> bool:
    return (
        found.get("meta.hdi_isfolder", "").lower() == "true"
        or found.get("ResourceType", "").lower() == "directory"
    )


async def _list(
    client: AzureClient, prefix: str, allow: Sequence[str], ignore: Sequence[str]
) -> list[PlannedFile]:
    """Every blob below ``prefix``, page by page."""
    files: dict[str, PlannedFile] = {}
    census = Census(client.address.uri)
    url = item_url(client.base, client.address.container)
    query = {"restype": "container", "comp": "list", "include": "metadata", "maxresults": _PAGE}
    if prefix:
        query["prefix"] = prefix
    while True:
        page = await client.page(url, query)
        for kind, found in page.items:
            name = found.get("Name", "")
            if kind != "Blob" or not name:
                raise client.no_listing()
            if not name.startswith(prefix):
                raise ContentError(f"{client.base} lists a blob outside the asked prefix")
            path = name[len(prefix) :]
            is_marker = name.endswith("/") and found.get("Content-Length", "0") == "0"
            if is_marker or _is_folder(found) or (path and not is_wanted(path, allow, ignore)):
                continue
            census.count(path)
            files[path] = _planned(client, name, path, found)
        if not page.marker:
            return list(files.values())
        query["marker"] = page.marker


def _planned(
    client: AzureClient,
    name: str,
    path: str,
    found: Mapping[str, str],
    *,
    version: str | None = None,
) -> PlannedFile:
    if found.get("AccessTier", "").lower() == "archive":
        raise ContentError(
            f"the blob {escape(name)} is in the archive tier, from where nothing can be read",
            hint="rehydrate it, or leave it out with an ignore pattern",
        )
    pinned = client.address.pinned
    return PlannedFile(
        path=path,
        url=item_url(client.base, client.address.container, name, pinned),
        size=client.size_of(found.get("Content-Length")),
        validator=Validator(etag=quoted(found.get("Etag")), version_id=version),
        digest=md5_of(found.get("Content-MD5")),
        headers=HEADERS,
    )


async def check_blob(client: AzureClient, path: str) -> None:
    """HEAD of the blob at ``path`` of the model, which takes the right to read it."""
    prefix = client.address.prefix
    names = [f"{prefix}/{path}" if prefix else path]
    if prefix and prefix.rsplit("/", 1)[-1] == path:
        names.insert(0, prefix)
    for name in names:
        if await _look(client, name) is not None:
            return
    raise NotFound(f"{path} is no longer in {client.address.uri}")
