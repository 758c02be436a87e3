"""What a URI of Azure Files means now: one file, or all below a directory, however deep (KServe
stops at five levels, and keeps the directory's own path in front).

Get File takes no If-Match; so the ETag counts as a weak one, which is compared with every answer's
and never sent. "List Directories and Files", "Get File Properties": Azure's REST reference.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cachd.errors import NotFound
from cachd.model import PlannedFile, Validator
from cachd.names import check_name
from cachd.sources.azure_client import HEADERS, AzureClient, md5_of, quoted
from cachd.sources.azure_location import item_url
from cachd.sources.census import Census
from cachd.sources.patterns import is_wanted
from cachd.sources.prefixes import check_held, object_or_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.model import Digest, Plan

_PAGE = "5000"
_AT_ONCE = 8
"""Directories that are listed at the same time."""


async def plan_files(client: AzureClient, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
    """Raises NotFound, PathUnsafe, AccessError, OriginError."""
    prefix = client.address.prefix
    if prefix:
        files = await object_or_directory(_look(client, prefix), _walk(client, allow, ignore))
    else:
        files = await _walk(client, allow, ignore)
    return client.plan(files, is_filtered=bool(allow or ignore))


async def _look(client: AzureClient, name: str) -> PlannedFile | None:
    """The file of that very name; None if there is none."""
    answer = await client.look(item_url(client.base, client.address.container, name))
    if answer is None or answer.headers.get("x-ms-type", "File") != "File":
        return None
    headers = answer.headers
    return _planned(
        client,
        name,
        name.rsplit("/", 1)[-1],
        headers.get("Content-Length"),
        headers.get("ETag"),
        md5_of(headers.get("Content-MD5")),
    )


async def _walk(
    client: AzureClient, allow: Sequence[str], ignore: Sequence[str]
) -> list[PlannedFile]:
    """Level by level; a directory that isn't there holds nothing."""
    census = Census(client.address.uri)
    files: list[PlannedFile] = []
    limit = asyncio.Semaphore(_AT_ONCE)

    async def visit(below: str) -> list[str]:
        async with limit:
            return await _list(client, below, allow, ignore, census, files)

    level = [""]
    while level:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(visit(below)) for below in level]
        except BaseExceptionGroup as errors:
            # The first one says it; the others are its echoes.
            raise errors.exceptions[0] from None
        level = [name for task in tasks for name in task.result()]
    return files


async def _list(
    client: AzureClient,
    below: str,
    allow: Sequence[str],
    ignore: Sequence[str],
    census: Census,
    files: list[PlannedFile],
) -> list[str]:
    """Adds the files of one directory, and returns its directories."""
    place = "/".join(filter(None, (client.address.prefix, below)))
    url = item_url(client.base, client.address.container, place)
    query = {
        "restype": "directory",
        "comp": "list",
        "include": "Timestamps,ETag",
        "maxresults": _PAGE,
    }
    directories: list[str] = []
    while True:
        try:
            page = await client.page(url, query)
        except NotFound:
            if below or not client.address.prefix:
                raise
            return []
        for kind, found in page.items:
            name = found.get("Name", "")
            path = f"{below}/{name}" if below else name
            if not name or "/" in name:
                if name:
                    check_name(path)  # what is hostile is told for what it is
                raise client.no_listing()
            if kind == "Directory":
                check_name(path)
                census.count(path)
                directories.append(path)
            elif is_wanted(path, allow, ignore):
                census.count(path)
                whole = "/".join(filter(None, (client.address.prefix, path)))
                size, etag = found.get("Content-Length"), found.get("Etag")
                files.append(_planned(client, whole, path, size, etag))
        if not page.marker:
            return directories
        query["marker"] = page.marker


def _planned(
    client: AzureClient,
    name: str,
    path: str,
    size: str | None,
    etag: str | None,
    digest: Digest | None = None,
) -> PlannedFile:
    strong = quoted(etag)
    return PlannedFile(
        path=path,
        url=item_url(client.base, client.address.container, name),
        size=client.size_of(size),
        validator=Validator(etag=f"W/{strong}" if strong else None),
        digest=digest,
        headers=HEADERS,
    )


async def check_file(client: AzureClient, path: str) -> None:
    """HEAD of the file at ``path`` of the model, which takes the right to read it."""
    address = client.address
    await check_held(address.uri, address.prefix, path, lambda name: _look(client, name))
