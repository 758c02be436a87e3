"""The fake of Cloud Storage before Google's own client; our source before an emulator of another
make."""

from __future__ import annotations

import gzip
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from cachd.credentials import Credentials
from tests.servers.gcs import FakeGcs, Stored
from tests.servers.peers import peer_program, peer_python
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess
from tests.sources.asking import context, paths, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

W = b"weights" * 1000

CLIENT = """
import json, sys
from google.api_core import exceptions
from google.auth.exceptions import InvalidOperation
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.oauth2 import service_account

endpoint, private, public = sys.argv[1:4]
key = json.load(sys.stdin)
options = {"api_endpoint": endpoint}
signed = service_account.Credentials.from_service_account_info(key)
client = storage.Client(project="p", credentials=signed, client_options=options)
nobody = storage.Client(project="p", credentials=AnonymousCredentials(), client_options=options)

def failure(act):
    try:
        act()
    except (exceptions.GoogleAPICallError, InvalidOperation) as error:
        return type(error).__name__
    return "none"

blobs = list(client.list_blobs(private, prefix="m/", page_size=2, retry=None))
bucket = client.bucket(private)
blob = bucket.get_blob("m/w.bin", retry=None)
old = blob.generation
bucket.blob("m/up.bin").upload_from_string(b"uploaded", retry=None)
print(json.dumps({
    "names": [each.name for each in blobs],
    "size": blob.size,
    "crc": blob.crc32c,
    "whole": blob.download_as_bytes(retry=None, checksum="crc32c").decode(),
    "range": blob.download_as_bytes(start=7, end=13, retry=None).decode(),
    "packed": bucket.blob("m/t.json").download_as_bytes(retry=None).decode(),
    "pinned": bucket.blob("m/w.bin", generation=old).download_as_bytes(retry=None).decode()[:7],
    "gone": failure(lambda: bucket.blob("m/w.bin", generation=1).download_as_bytes(retry=None)),
    "condition": failure(lambda: blob.download_as_bytes(if_generation_match=1, retry=None)),
    "missing": failure(lambda: bucket.blob("nothing").download_as_bytes(retry=None)),
    "no_bucket": failure(lambda: list(client.list_blobs("no-such-bucket", retry=None))),
    "anonymous": failure(lambda: list(nobody.list_blobs(private, retry=None))),
    "public": [each.name for each in nobody.list_blobs(public, retry=None)],
    "uploaded": bucket.blob("m/up.bin").download_as_bytes(retry=None).decode(),
}))
"""


def test_googles_client_is_content_with_the_fake() -> None:
    gcs = FakeGcs()
    try:
        private = gcs.make_bucket({f"m/{n}": b"x" for n in range(4)} | {"other": b"1"})
        gcs.put(private, "m/w.bin", Stored(W))
        gcs.put(private, "m/t.json", Stored(gzip.compress(b"{}"), encoding="gzip"))
        public = gcs.make_bucket({"p": b"1"})
        gcs.private.add(private)
        gcs.page = 3
        ended = subprocess.run(
            [peer_python(), "-c", CLIENT, gcs.endpoint, private, public],
            input=gcs.service_account(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        gcs.stop()
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found == {
        "names": ["m/0", "m/1", "m/2", "m/3", "m/t.json", "m/w.bin"],
        "size": len(W),
        "crc": Stored(W).crc32c,
        "whole": W.decode(),
        "range": "weights",
        "packed": "{}",
        "pinned": "weights",
        "gone": "NotFound",
        "condition": "PreconditionFailed",
        "missing": "NotFound",
        "no_bucket": "NotFound",
        "anonymous": "InvalidOperation",  # 401 has it ask for other credentials
        "public": ["p"],
        "uploaded": "uploaded",
    }


# --- an emulator ---------------------------------------------------------------------------------

FILL = """
import sys
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

client = storage.Client(
    project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": sys.argv[1]}
)
bucket = client.create_bucket("models")
for name, body in (("m/w.bin", b"weights" * 1000), ("m/sub/e", b""), ("m-hf/x", b"1")):
    bucket.blob(name).upload_from_string(body)
"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """gcp-storage-emulator, filled by Google's own client."""
    folder: Path = tmp_path_factory.mktemp("emulator")
    (port,) = free_ports(1)
    program = peer_program("gcp-storage-emulator")
    server = ServerProcess(
        [program, "-d", str(folder / "data"), "start", f"--host={LOOPBACK}", f"--port={port}"],
        folder,
    )
    try:
        server.wait_for_http(port)
        endpoint = f"http://{LOOPBACK}:{port}"
        subprocess.run([peer_python(), "-c", FILL, endpoint], check=True, timeout=60)
        yield endpoint
    finally:
        server.stop()


async def test_an_emulator(emulator: str) -> None:
    source, asked = request("gs://models/m", Credentials(), endpoint=emulator, max_attempts=1)
    plan = await source.resolve(asked, context())
    assert paths(plan) == {"w.bin": len(W), "sub/e": 0}
    assert str(plan.files[1].digest).startswith("crc32c:")
    await source.probe(asked, "w.bin", context())
    source, asked = request("gs://models/m/w.bin", Credentials(), endpoint=emulator)
    assert paths(await source.resolve(asked, context())) == {"w.bin": len(W)}
