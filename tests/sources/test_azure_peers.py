"""The fake of Azure Files, and our signatures, before Microsoft's own clients."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from cachd.sources.azure_identity import VERSION, service_sas
from cachd.sources.azure_location import parse_azure
from tests.servers.azurefiles import ACCOUNT, KEY, FakeFiles
from tests.servers.peers import peer_python

if TYPE_CHECKING:
    from tests.servers.azurite import Azurite

W = b"weights" * 1000
FILES = """
import json, sys
from datetime import datetime, timedelta, timezone
from azure.core.exceptions import AzureError
from azure.storage.fileshare import ShareClient, ShareSasPermissions, generate_share_sas

url, account, key, share = sys.argv[1:5]
until = datetime.now(timezone.utc) + timedelta(hours=1)
sas = generate_share_sas(account, share, key, ShareSasPermissions(read=True, list=True), until)

def client(credential):
    return ShareClient(url, share, credential=credential, retry_total=0)

def failure(act):
    try:
        act()
    except AzureError as error:
        code = getattr(error, "error_code", "")
        return str(getattr(code, "value", code) or type(error).__name__)
    return "none"

share_client = client(sas)
found = list(share_client.list_directories_and_files("m", include=["ETag"], results_per_page=2))
file = share_client.get_file_client("m/x.bin")
properties = file.get_file_properties()
print(json.dumps({
    "names": sorted(each["name"] for each in found),
    "directories": [each["name"] for each in found if each["is_directory"]],
    "size": properties.size,
    "etag": next(e["etag"] for e in found if e["name"] == "x.bin") == properties.etag,
    "whole": file.download_file().readall().decode(),
    "range": file.download_file(offset=7, length=7).readall().decode(),
    "missing": failure(lambda: share_client.get_file_client("m/none").get_file_properties()),
    "no_directory": failure(lambda: list(share_client.list_directories_and_files("none"))),
    "forged": failure(lambda: list(client(sas[:-6] + "AAA%3D").list_directories_and_files("m"))),
}))
"""

BLOBS = """
import json, sys
from azure.core.exceptions import AzureError
from azure.storage.blob import ContainerClient

url, container, sas = sys.argv[1:4]
client = ContainerClient(url, container, credential=sas, retry_total=0)
def failure(act):
    try:
        act()
    except AzureError as error:
        return type(error).__name__
    return "none"
print(json.dumps({
    "names": [each.name for each in client.list_blobs(name_starts_with="m/")],
    "body": client.download_blob("m/x").readall().decode(),
    "written": failure(lambda: client.upload_blob("m/y", b"1")),
}))
"""


def run(script: str, *arguments: str) -> object:
    ended = subprocess.run(
        [peer_python(), "-c", script, *arguments], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_microsofts_client_is_content_with_the_fake() -> None:
    files = FakeFiles()
    try:
        share = files.make_bucket({"m/x.bin": W, "m/sub/y": b"1", "m/z": b"2", "other": b"3"})
        found = run(FILES, f"{files.endpoint}/{ACCOUNT}", ACCOUNT, KEY, share)
    finally:
        files.stop()
    assert found == {
        "names": ["sub", "x.bin", "z"],
        "directories": ["sub"],
        "size": len(W),
        "etag": True,
        "whole": W.decode(),
        "range": "weights",
        "missing": "ResourceNotFound",
        "no_directory": "ResourceNotFound",
        "forged": "AuthenticationFailed",
    }


def test_our_signature_reads_and_lists_and_no_more(azurite: Azurite) -> None:
    container = azurite.make_bucket({"m/x": W, "n": b"1"})
    account = azurite.access_key
    address = parse_azure(f"https://{account}.blob.core.windows.net/{container}")
    sas = service_sas(address, azurite.secret_key, "test", 4_000_000_000, is_tls=False)
    found = run(BLOBS, f"{azurite.endpoint}/{account}", container, sas)
    assert found == {
        "names": ["m/x"],
        "body": W.decode(),
        "written": "HttpResponseError",
    }


SIGN = """
import json, sys
from urllib.parse import parse_qs
from azure.storage.blob import BlobSasPermissions
from azure.storage.blob._shared_access_signature import BlobSharedAccessSignature

account, key, container, blob, name, value, until, version = sys.argv[1:9]
helper = BlobSharedAccessSignature(account, key)
helper.x_ms_version = version
sas = helper.generate_blob(
    container, blob, snapshot=value if name == "snapshot" else None,
    version_id=value if name == "version_id" else None,
    permission=BlobSasPermissions(read=True), expiry=until, protocol="https",
)
print(json.dumps({name: values[0] for name, values in parse_qs(sas).items()}))
"""


@pytest.mark.parametrize("name", ["snapshot", "versionid"])
def test_a_signature_for_one_state_of_a_blob_is_microsofts(name: str) -> None:
    moment, until = "2024-01-02T03:04:05.0000000Z", 4_000_000_000
    address = parse_azure(f"https://acct.blob.core.windows.net/con/a%20b/x?{name}={moment}")
    sas = service_sas(address, KEY, "test", until, is_tls=True)
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
    theirs = "version_id" if name == "versionid" else name
    arguments = ["acct", KEY, "con", "a b/x", theirs, moment, end, VERSION]
    ended = subprocess.run(
        [peer_python(), "-c", SIGN, *arguments], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found == {key: values[0] for key, values in parse_qs(sas).items()}
