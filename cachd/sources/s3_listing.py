"""What an ``s3://`` URI means now: one object, or the objects below a prefix.

A prefix is a directory: ``m`` takes ``m/…``, never ``m-hf/…`` (KServe takes both). An object whose
key is the whole path wins over a directory of the same name, unless it is empty. Directory markers
(keys that end in ``/``, empty) are no files; other empty objects are, KServe skips them.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cachd.errors import AccessError, ContentError, NotFound, OriginError
from cachd.model import Digest, Plan, PlannedFile, Validator
from cachd.names import check_tree
from cachd.sources.archives import unpack_of
from cachd.sources.census import Census
from cachd.sources.patterns import is_wanted
from cachd.sources.revisions import revision_of
from cachd.sources.s3_errors import no_model, status_of
from cachd.sources.s3_location import object_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cachd.sources.s3_client import S3Client

_MOST = 1 << 62
"""Bytes of one file: more than any file system holds."""


async def plan_model(client: S3Client, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
    """The plan. Raises NotFound, PathUnsafe, and what ``S3Client.error`` makes."""
    address = client.address
    if not address.prefix:
        files = await _list(client, "", allow, ignore)
    elif address.version_id:
        files = [await _head(client)]
    else:
        files = await _object_or_directory(client, allow, ignore)
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


async def _object_or_directory(
    client: S3Client, allow: Sequence[str], ignore: Sequence[str]
) -> list[PlannedFile]:
    """Both questions at once, for either may be refused to a caller who may ask the other."""
    exact, listed = await asyncio.gather(
        _head(client),
        _list(client, client.address.prefix + "/", allow, ignore),
        return_exceptions=True,
    )
    if isinstance(exact, PlannedFile) and (exact.size or not (isinstance(listed, list) and listed)):
        return [exact]
    if isinstance(listed, BaseException):
        raise listed
    if not listed and isinstance(exact, ClientError) and status_of(exact) in {401, 403}:
        raise AccessError(
            f"S3 access denied to {client.address.uri} at {client.endpoint}",
            hint="the credentials may list the bucket but not read this object",
        )
    if not listed and isinstance(exact, BaseException) and not _is_absent(exact):
        raise exact
    return listed


def _is_absent(error: BaseException) -> bool:
    return isinstance(error, ClientError) and status_of(error) == 404


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
    census = Census(client.address.uri)
    bucket = client.address.bucket
    pages = client.api.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    async for page in pages:
        for item in page.get("Contents", ()):
            key, size = _entry(item, client.endpoint)
            if not key.startswith(prefix):
                raise ContentError(f"{client.endpoint} lists a key outside the asked prefix")
            path = key[len(prefix) :]
            if (key.endswith("/") and not size) or (path and not is_wanted(path, allow, ignore)):
                continue
            census.count(path)
            found[path] = _planned(client, key=key, path=path, size=size, etag=item.get("ETag"))
    return list(found.values())


def _entry(item: Mapping[str, Any], endpoint: str) -> tuple[str, int]:
    """Key and size. Raises OriginError where the listing has none, or nonsense."""
    key, size = item.get("Key"), item.get("Size")
    if not isinstance(key, str) or not isinstance(size, int) or not 0 <= size <= _MOST:
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
    """HEAD of the object at ``path`` of the model; raises what the origin said.

    The path of a model that is one object is that object's base name.
    """
    address = client.address
    below = f"{address.prefix}/{path}" if address.prefix else path
    keys = [below]
    if address.prefix and address.prefix.rsplit("/", 1)[-1] == path:
        keys.insert(0, address.prefix)
    extra = {"VersionId": address.version_id} if address.version_id else {}
    for key in keys:
        try:
            await client.api.head_object(Bucket=address.bucket, Key=key, **extra)
        except ClientError as error:
            if status_of(error) != 404:
                raise
        else:
            return
    raise NotFound(f"{path} is no longer in {address.uri}")
