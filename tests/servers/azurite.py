"""Azurite: Microsoft's own emulator of Blob Storage, which checks signatures and rights.
``make test`` installs it where there is npm."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess
from tests.servers.require import missing

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT = "models"
KEY = base64.b64encode(b"the key of the account models, 64 bytes".ljust(64, b".")).decode()
VERSION = "2023-11-03"
PUBLIC_CONTAINER = "public-models"
_HERE = Path(__file__).resolve().parents[2]


def account_sas(
    permissions: str, key: str = KEY, *, seconds: int = 3600, services: str = "b"
) -> str:
    """A signature for the whole account ("Create an account SAS")."""
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    lines = [ACCOUNT, permissions, services, "sco", "", end, "", "", VERSION, "", ""]
    digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    fields = {"sv": VERSION, "ss": services, "srt": "sco", "sp": permissions, "se": end}
    return urlencode({**fields, "sig": base64.b64encode(digest).decode()})


class Azurite:
    """One account, ``ACCOUNT``. ``endpoint`` has no account in its path."""

    name = "azurite"

    def __init__(self, program: str, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.endpoint = f"http://{LOOPBACK}:{self.port}"
        self.tls_endpoint = ""
        self.access_key, self.secret_key = ACCOUNT, KEY
        arguments = [program, "--blobHost", LOOPBACK, "--blobPort", str(self.port), "--silent"]
        arguments += ["--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry"]
        self._process = ServerProcess(arguments, folder, AZURITE_ACCOUNTS=f"{ACCOUNT}:{KEY}")
        self._process.wait_for_http(self.port)
        self._sas = account_sas("rwdlac")

    def stop(self) -> None:
        self._process.stop()

    def make_bucket(self, objects: Mapping[str, bytes], bucket: str = "") -> str:
        bucket = bucket or f"c-{secrets.token_hex(4)}"
        access = {"x-ms-blob-public-access": "container"} if bucket == PUBLIC_CONTAINER else {}
        self._call("PUT", f"{bucket}?restype=container", 201, 409, **access)
        for name, body in objects.items():
            self.put(bucket, name, body)
        return bucket

    def put(self, container: str, name: str, body: bytes, **headers: str) -> None:
        path = f"{container}/{quote(name, safe='/')}"
        given = {"x-ms-blob-type": "BlockBlob", **headers}
        self._call("PUT", path, 201, body=body, **given)

    def delete(self, container: str, name: str) -> None:
        self._call("DELETE", f"{container}/{quote(name, safe='/')}", 202)

    def snapshot(self, container: str, name: str) -> str:
        path = f"{container}/{quote(name, safe='/')}?comp=snapshot"
        return self._call("PUT", path, 201)["x-ms-snapshot"]

    @staticmethod
    def sign(permissions: str) -> str:
        return account_sas(permissions)

    def _call(
        self, method: str, path: str, *good: int, body: bytes = b"", **headers: str
    ) -> dict[str, str]:
        target = f"/{ACCOUNT}/{path}{'&' if '?' in path else '?'}{self._sas}"
        given = {"x-ms-version": VERSION, "Content-Length": str(len(body)), **headers}
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, target, body, given)
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status in good, (method, path, answer.status, said)
        return {name.lower(): value for name, value in answer.getheaders()}


def start_azurite(folder: Path) -> Azurite:
    """Skips, or fails where everything must be there, without it."""
    place = Path(os.environ.get("CACHD_TEST_AZURITE") or _HERE / ".venv-azurite")
    program = place / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        missing("azurite (scripts/install-azurite)")
    return Azurite(str(program), folder)
