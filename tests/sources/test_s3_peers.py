"""``s3://`` before moto's server: an S3 of another make, which looks at no signatures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cachd.errors import NotFound
from tests.harness import running
from tests.origins.proxy import Proxy
from tests.servers.peers import peer_program
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess
from tests.servers.s3 import S3Server
from tests.sources.asking import context, paths, request, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

W = b"weights" * 1000
PART = 5 * 1024 * 1024
DATA = os.urandom(PART + 4321)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("moto")
    (port,) = free_ports(1)
    server = ServerProcess([peer_program("moto_server"), "-H", LOOPBACK, "-p", str(port)], folder)
    try:
        server.wait_for_http(port, "/moto-api/data.json")
        yield S3Server("moto", f"http://{LOOPBACK}:{port}", "", "")
    finally:
        server.stop()


async def test_a_prefix_and_one_object(moto: S3Server) -> None:
    objects = {"m/w é+%.bin": W, "m/sub/e": b"", "m/sub/": b"", "m-hf/x": b"1", "m.txt": b"2"}
    bucket = moto.make_bucket(objects)
    source, asked = request(f"s3://{bucket}/m", endpoint=moto.endpoint)
    plan = await source.resolve(asked, context())
    assert paths(plan) == {"w é+%.bin": len(W), "sub/e": 0}
    assert plan.is_validated
    await source.probe(asked, "w é+%.bin", context())
    one = await resolve(f"s3://{bucket}/m/w é+%.bin", endpoint=moto.endpoint)
    assert paths(one) == {"w é+%.bin": len(W)}
    for path in ("m/w", "nothing"):
        with pytest.raises(NotFound):
            await resolve(f"s3://{bucket}/{path}", endpoint=moto.endpoint)
    with pytest.raises(NotFound, match="bucket"):
        await resolve("s3://no-such-bucket/m", endpoint=moto.endpoint)


def put_parts(server: S3Server, target: dict[str, str]) -> None:
    client = server.client()
    upload = client.create_multipart_upload(**target)["UploadId"]
    done = []
    for number, body in enumerate((DATA[:PART], DATA[PART:]), 1):
        answer = client.upload_part(**target, UploadId=upload, PartNumber=number, Body=body)
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": done})
    client.close()


def test_what_its_etags_are_good_for(moto: S3Server, tmp_path: Path) -> None:
    """That of an object put at once is held against what arrives. One of parts stays unverified:
    asked for a part's size, moto takes that part's ETag for the object's, where S3 has one for all
    (412 to If-Match); so the question has no answer that is of this state for sure."""
    bucket = moto.make_bucket({"once/w.bin": DATA})
    put_parts(moto, {"Bucket": bucket, "Key": "parts/w.bin"})
    keys = {"access_key_id": moto.access_key, "secret_access_key": moto.secret_key}
    asked = {"options": {"endpoint": moto.endpoint}, "credentials": keys}
    with (
        Proxy() as proxy,
        running(tmp_path, {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}) as daemon,
    ):
        proxy.is_flipping = True
        refused = daemon.ask(f"s3://{bucket}/once", **asked)
        assert (refused.status, refused.json()["code"]) == (422, "digest_mismatch")
        assert refused.json()["expected"].startswith("md5:")
        proxy.is_flipping = False
        for name, verified in (("once", {"md5": 1}), ("parts", {})):
            taken = daemon.ask(f"s3://{bucket}/{name}", **asked)
            assert taken.status == 200, taken.body
            assert Path(taken.json()["path"], "w.bin").read_bytes() == DATA
            model = daemon.admin("GET", f"/v1/models/{taken.json()['key']}").json()
            assert model["verified"] == verified
            assert model["unverified"] == (0 if verified else 1)
