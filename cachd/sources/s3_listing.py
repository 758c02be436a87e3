"""What an ``s3://`` URI means now: one object, or the objects below a prefix (``prefixes``)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cachd.errors import AccessError, OriginError
from cachd.model import Digest, Plan, PlannedFile, Validator
from cachd.names import check_tree
from cachd.sources.archives import unpack_of
from cachd.sources.census import MAX_SIZE
from cachd.sources.prefixes import Listing, check_held, object_or_directory
from cachd.sources.revisions import revision_of
from cachd.sources.s3_errors import no_model, status_of
from cachd.sources.s3_location import object_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cachd.sources.s3_client import S3Client


async def plan_model(client: S3Client, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
    """The plan. Raises NotFound, PathUnsafe, and what ``S3Client.error`` makes."""
    address = client.address
    if not address.prefix:
        files = await _list(client, "", allow, ignore)
    elif address.version_id:
        files = [await _head(client)]
    else:
        below = _list(client, address.prefix + "/", allow, ignore)
        files = await object_or_directory(_look(client), below)
    if not files:
        raise no_model(address.uri, is_filtered=bool(allow or ignore))
    files = sorted(files, key=lambda f: f.path)
    check_tree(f.path for f in files)
    return Plan(
        revision=revision_of(files),
        files=tuple(files),
        auth=client.identity.auth(client.region),
        connect=client.connect,
        unpack=unpack_of(files),
        is_immutable=address.version_id is not None,
        is_validated=all(f.validator.is_usable for f in files),
        is_credentialed=client.identity.signs,
        metadata={"endpoint": client.endpoint, "bucket": address.bucket, "region": client.region},
    )


async def _look(client: S3Client) -> PlannedFile | None:
    """What ``_head`` says; None if there is no such object."""
    try:
        return await _head(client)
    except ClientError as error:
        if status_of(error) == 404:
            return None
        if status_of(error) not in {401, 403}:
            raise
        raise AccessError(
            f"S3 access denied to {client.address.uri} at {client.endpoint}",
            hint="the credentials may list the bucket but not read this object",
        ) from None


async def _head(client: S3Client) -> PlannedFile:
    """The object whose key is the whole path; its checksum where S3 keeps one of the whole."""
    address = client.address
    extra = {"VersionId": address.version_id} if address.version_id else {}
    answer = await client.api.head_object(
        Bucket=address.bucket, Key=address.prefix, ChecksumMode="ENABLED", **extra
    )
    return _planned(
        client,
        key=address.prefix,
        path=address.prefix.rsplit("/", 1)[-1],
        size=int(answer["ContentLength"]),
        etag=answer.get("ETag"),
        version_id=address.version_id,
        digest=_digest(answer),
    )


def _digest(answer: dict[str, Any]) -> Digest | None:
    if answer.get("ChecksumType", "") != "FULL_OBJECT":
        return None
    if answer.get("ChecksumSHA256"):
        return Digest(algorithm="sha256", value=_hex(answer["ChecksumSHA256"]))
    if answer.get("ChecksumCRC64NVME"):
        return Digest(algorithm="crc64nvme", value=_hex(answer["ChecksumCRC64NVME"]))
    return None


def _hex(value: str) -> str:
    return base64.b64decode(value).hex()


async def _list(
    client: S3Client, prefix: str, allow: Sequence[str], ignore: Sequence[str]
) -> list[PlannedFile]:
    """Every object below ``prefix``, page by page."""
    found: dict[str, PlannedFile] = {}
    says = f"{client.endpoint} lists a key"
    listing = Listing(client.address.uri, prefix, allow, ignore, says=says)
    bucket = client.address.bucket
    pages = client.api.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    async for page in pages:
        for item in page.get("Contents", ()):
            key, size = _entry(item, client.endpoint)
            path = listing.path_of(key, is_empty=not size)
            if path is not None:
                etag = item.get("ETag")
                found[path] = _planned(client, key=key, path=path, size=size, etag=etag)
    return list(found.values())


def _entry(item: Mapping[str, Any], endpoint: str) -> tuple[str, int]:
    """Key and size. Raises OriginError where the listing has none, or nonsense."""
    key, size = item.get("Key"), item.get("Size")
    if not isinstance(key, str) or not isinstance(size, int) or not 0 <= size <= MAX_SIZE:
        raise OriginError(
            f"{endpoint} lists an object without a usable key or size",
            hint="is this an S3 endpoint, and its port?",
        )
    return key, size


def _planned(
    client: S3Client,
    *,
    key: str,
    path: str,
    size: int,
    etag: str | None,
    version_id: str | None = None,
    digest: Digest | None = None,
) -> PlannedFile:
    return PlannedFile(
        path=path,
        url=object_url(
            client.base, client.address.bucket, key, virtual=client.virtual, version_id=version_id
        ),
        size=size,
        validator=Validator(etag=etag, version_id=version_id),
        digest=digest,
    )


async def read_check(client: S3Client, path: str) -> None:
    """HEAD of the object at ``path`` of the model; raises what the origin said."""
    address = client.address
    extra = {"VersionId": address.version_id} if address.version_id else {}

    async def look(key: str) -> str | None:
        try:
            await client.api.head_object(Bucket=address.bucket, Key=key, **extra)
        except ClientError as error:
            if status_of(error) != 404:
                raise
            return None
        return key

    await check_held(address.uri, address.prefix, path, look)
