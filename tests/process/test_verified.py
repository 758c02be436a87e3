"""Objects of real S3 servers, uploaded in all the ways that give them a digest: one byte that is
wrong on the way never gets published."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, running
from tests.origins.proxy import Proxy
from tests.servers.s3 import S3Server

MIB = 1024 * 1024
PART = 5 * MIB
DATA = os.urandom(2 * PART + 4321)


def put(client: Any, target: dict[str, str], **more: Any) -> None:
    client.put_object(**target, Body=DATA, **more)


def put_parts(client: Any, target: dict[str, str], sizes: list[int], **more: Any) -> None:
    upload = client.create_multipart_upload(**target, **more)["UploadId"]
    done, at = [], 0
    algorithm = more.get("ChecksumAlgorithm")
    for number, size in enumerate([*sizes, len(DATA) - sum(sizes)], start=1):
        answer = client.upload_part(
            **target,
            UploadId=upload,
            PartNumber=number,
            Body=DATA[at : at + size],
            **({"ChecksumAlgorithm": algorithm} if algorithm else {}),
        )
        sums = {k: v for k, v in answer.items() if k.startswith("Checksum")}
        done.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
        at += size
    client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": done})


UPLOADS: dict[str, Callable[[Any, dict[str, str]], None]] = {
    "plain": put,
    "crc64nvme": lambda c, t: put(c, t, ChecksumAlgorithm="CRC64NVME"),
    "sha256": lambda c, t: put(c, t, ChecksumAlgorithm="SHA256"),
    "crc32c": lambda c, t: put(c, t, ChecksumAlgorithm="CRC32C"),
    "even-parts": lambda c, t: put_parts(c, t, [PART] * 2),
    "odd-parts": lambda c, t: put_parts(c, t, [PART + 5, PART]),
    "crc32c-parts": lambda c, t: put_parts(c, t, [PART] * 2, ChecksumAlgorithm="CRC32C"),
    "sha256-parts": lambda c, t: put_parts(c, t, [PART] * 2, ChecksumAlgorithm="SHA256"),
}

PARTS = ("even-parts", "odd-parts", "crc32c-parts", "sha256-parts")
EXPECTED = {
    "seaweedfs": {
        "plain": "md5",
        "crc64nvme": "crc64nvme",
        "sha256": "sha256",
        "crc32c": "crc32c",
        "even-parts": "md5-multipart",
        "odd-parts": "md5-multipart",
        "crc32c-parts": "crc32c-multipart",
        "sha256-parts": "sha256-multipart",
    },
    # It keeps no checksums, and tells no sizes of parts.
    "juicefs": {name: "" if name in PARTS else "md5" for name in UPLOADS},
}
"""The algorithm by server and upload; none where nothing can be compared."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def behind(tmp_path: Path, proxy: Proxy) -> Iterator[Daemon]:
    """A daemon that calls out through the proxy."""
    with running(tmp_path, {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}) as daemon:
        yield daemon


def test_a_byte_that_is_wrong_on_the_way_is_never_published(
    behind: Daemon, proxy: Proxy, s3_server: S3Server
) -> None:
    client = s3_server.client()
    bucket = s3_server.make_bucket({})
    for name, upload in UPLOADS.items():
        upload(client, {"Bucket": bucket, "Key": f"{name}/w.bin"})
    client.close()
    keys = {"access_key_id": s3_server.access_key, "secret_access_key": s3_server.secret_key}
    body = {"options": {"endpoint": s3_server.endpoint}, "credentials": keys}
    for name in UPLOADS:
        algorithm = EXPECTED[s3_server.name][name]
        if algorithm:
            proxy.is_flipping = True
            refused = behind.ask(f"s3://{bucket}/{name}", **body)
            assert (refused.status, refused.json()["code"]) == (422, "digest_mismatch"), name
            assert refused.json()["expected"].startswith(f"{algorithm}:")
            assert refused.json()["path"] == "w.bin"
            proxy.is_flipping = False
        taken = behind.ask(f"s3://{bucket}/{name}", **body)
        assert taken.status == 200, (name, taken.body)
        assert Path(taken.json()["path"], "w.bin").read_bytes() == DATA
        model = behind.admin("GET", f"/v1/models/{taken.json()['key']}").json()
        assert model["verified"] == ({algorithm: 1} if algorithm else {}), name
        assert model["unverified"] == (0 if algorithm else 1)
    stories = list((behind.root / "quarantine").glob("*/story.json"))
    assert len(stories) == sum(1 for name in EXPECTED[s3_server.name].values() if name)
