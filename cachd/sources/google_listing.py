"""What a ``gs://`` URI means now: one object, or the objects below a prefix (``prefixes``).

Every object's URL names its generation. One that is stored with ``Content-Encoding: gzip`` is
unpacked by the server as it is sent ("decompressive transcoding"), for those bytes are what whoever
put it there meant: then its size isn't known, ranges don't work, and its checksums, which are of
the packed bytes, say nothing.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cachd.errors import ContentError, NotFound, OriginError
from cachd.model import Digest, Plan, PlannedFile, Validator
from cachd.names import check_tree, escape
from cachd.sources.archives import unpack_of
from cachd.sources.census import parse_size
from cachd.sources.google_errors import check
from cachd.sources.google_location import list_url, media_url, object_url
from cachd.sources.prefixes import Listing, check_held, no_model, object_or_directory
from cachd.sources.revisions import revision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.model import Connect
    from cachd.sources.google_identity import Pass
    from cachd.sources.google_location import GoogleAddress
    from cachd.sources.http_client import HttpAnswer, HttpClient

_FIELDS = "name,size,generation,md5Hash,crc32c,contentEncoding,cacheControl"
_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class GoogleClient:
    """One call's means: where, as whom, by what."""

    http: HttpClient
    endpoint: str
    address: GoogleAddress
    identity: Pass
    connect: Connect

    async def get(self, url: str, **query: str) -> HttpAnswer:
        """An answer of 2xx or 404. Raises what any other status means."""
        answer = await self.http.call(
            "GET", f"{url}?{urlencode(query)}", headers=self.identity.own_headers
        )
        if answer.status != 404:
            check(answer, self.endpoint, self.address, self.identity)
        return answer


async def plan_model(client: GoogleClient, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
    """Raises NotFound, PathUnsafe, AccessError, OriginError."""
    address = client.address
    if not address.prefix:
        files = await _list(client, "", allow, ignore)
    elif address.generation:
        exact = await _look(client, address.prefix)
        files = [exact] if exact else []
    else:
        files = await object_or_directory(
            _look(client, address.prefix), _list(client, f"{address.prefix}/", allow, ignore)
        )
    if not files:
        raise no_model(address.uri, is_filtered=bool(allow or ignore))
    files = sorted(files, key=lambda f: f.path)
    check_tree(f.path for f in files)
    return Plan(
        revision=revision_of(files),
        files=tuple(files),
        auth=client.identity.auth(client.endpoint),
        connect=client.connect,
        unpack=unpack_of(files),
        is_immutable=address.generation is not None,
        is_credentialed=client.identity.is_signed,
        metadata={"endpoint": client.endpoint, "bucket": address.bucket},
    )


async def _look(client: GoogleClient, name: str) -> PlannedFile | None:
    """The object of that very name; None if there is none."""
    address = client.address
    pinned = {"generation": address.generation} if address.generation else {}
    url = object_url(client.endpoint, address.bucket, name)
    answer = await client.get(url, fields=_FIELDS, **pinned)
    if answer.status == 404:
        return None
    return _planned(client, answer.json(), name.rsplit("/", 1)[-1])


async def _list(
    client: GoogleClient, prefix: str, allow: Sequence[str], ignore: Sequence[str]
) -> list[PlannedFile]:
    """Every object below ``prefix``, page by page."""
    found: dict[str, PlannedFile] = {}
    says = f"{client.endpoint} lists an object"
    listing = Listing(client.address.uri, prefix, allow, ignore, says=says)
    query = {"fields": f"items({_FIELDS}),nextPageToken", "maxResults": str(_PAGE)}
    if prefix:
        query["prefix"] = prefix
    url = list_url(client.endpoint, client.address.bucket)
    while True:
        answer = await client.get(url, **query)
        if answer.status == 404:
            raise NotFound(
                f"the bucket {client.address.bucket} does not exist at {client.endpoint}",
                hint="check the bucket's name and the endpoint",
            )
        page = answer.json()
        items = page.get("items", []) if isinstance(page, dict) else None
        if not isinstance(items, list):
            raise _no_listing(client)
        for item in items:
            name, size = _entry(client, item)
            path = listing.path_of(name, is_empty=not size)
            if path is not None:
                found[path] = _planned(client, item, path)
        token = page.get("nextPageToken")
        if not token:
            return list(found.values())
        if not isinstance(token, str) or token == query.get("pageToken"):
            raise OriginError(f"{client.endpoint} lists the same page again and again")
        query["pageToken"] = token


def _entry(client: GoogleClient, item: Any) -> tuple[str, int]:
    """Name and size. Raises OriginError where there is none, or nonsense."""
    name = item.get("name") if isinstance(item, dict) else None
    size = parse_size(str(item.get("size", ""))) if isinstance(item, dict) else None
    if not isinstance(name, str) or size is None:
        raise _no_listing(client)
    return name, size


def _no_listing(client: GoogleClient) -> OriginError:
    return OriginError(
        f"{client.endpoint} does not answer as Cloud Storage does",
        hint="is this an endpoint of Cloud Storage's JSON API?",
    )


def _planned(client: GoogleClient, item: Any, path: str) -> PlannedFile:
    name, size = _entry(client, item)
    generation = str(item.get("generation", ""))
    if not (generation.isascii() and generation.isdigit()):
        raise _no_listing(client)
    is_packed = str(item.get("contentEncoding") or "").strip().lower() == "gzip"
    if is_packed and "no-transform" in str(item.get("cacheControl") or "").lower():
        raise ContentError(
            f"the object {escape(name)} is stored with Content-Encoding gzip and is not to be "
            "unpacked (Cache-Control: no-transform)",
            hint="store it without one of the two, or leave it out with an ignore pattern",
        )
    return PlannedFile(
        path=path,
        url=media_url(client.endpoint, client.address.bucket, name, generation),
        size=None if is_packed else size,
        validator=Validator(version_id=generation),
        digest=None if is_packed else _digest(item),
        ranges=not is_packed,
    )


def _digest(item: dict[str, Any]) -> Digest | None:
    """crc32c, which every object has, and costs the least; md5, where only that is there."""
    for field, algorithm, width in (("crc32c", "crc32c", 4), ("md5Hash", "md5", 16)):
        try:
            raw = base64.b64decode(str(item.get(field) or ""), validate=True)
        except ValueError:
            continue
        if len(raw) == width:
            return Digest(algorithm=algorithm, value=raw.hex())
    return None


async def read_check(client: GoogleClient, path: str) -> None:
    """What is known of the object at ``path`` of the model, which takes the same permission as its
    bytes; raises what the origin said."""
    address = client.address
    await check_held(address.uri, address.prefix, path, lambda name: _look(client, name))
