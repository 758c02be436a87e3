"""What a URI of Blob Storage means now: one blob, or the blobs below a prefix (``prefixes``).

What accounts with a hierarchical namespace list for directories (metadata ``hdi_isfolder``) are no
files.

"List Blobs", "Get Blob Properties": Azure's REST reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.errors import ContentError
from cachd.model import PlannedFile, Validator
from cachd.names import escape
from cachd.sources.azure_client import HEADERS, AzureClient, md5_of, quoted
from cachd.sources.azure_location import item_url
from cachd.sources.prefixes import Listing, check_held, object_or_directory

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
        files = await object_or_directory(
            _look(client, prefix), _list(client, f"{prefix}/", allow, ignore)
        )
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
    says = f"{client.base} lists a blob"
    listing = Listing(client.address.uri, prefix, allow, ignore, says=says)
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
            is_empty = found.get("Content-Length", "0") == "0"
            path = listing.path_of(name, is_empty=is_empty, is_folder=_is_folder(found))
            if path is not None:
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
    address = client.address
    await check_held(address.uri, address.prefix, path, lambda name: _look(client, name))
