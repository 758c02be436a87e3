"""``http://`` before a WebDAV server that wants a password: WsgiDAV, served by Cheroot."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import CredentialsInvalid, CredentialsMissing, NotFound
from tests.conformance.packing import tar, zipped
from tests.harness import running
from tests.servers.peers import peer_program
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess
from tests.sources.asking import paths, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, PASSWORD = "ada", "dav-secret-2718"
W = b"weights" * 1000
MIB = 1024 * 1024


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()


def shown(password: str) -> Credentials:
    return Credentials(headers=((LOOPBACK, (("Authorization", basic(password)),)),))


class Dav:
    """``root`` is what it serves at ``url``."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        (port,) = free_ports(1)
        self.url = f"http://{LOOPBACK}:{port}"
        config = folder / "wsgidav.json"
        config.write_text(
            json.dumps(
                {
                    "host": LOOPBACK,
                    "port": port,
                    "server": "cheroot",
                    "provider_mapping": {"/": str(self.root)},
                    "http_authenticator": {
                        "accept_basic": True,
                        "accept_digest": False,
                        "default_to_digest": False,
                    },
                    "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
                }
            )
        )
        program = peer_program("wsgidav")
        self._server = ServerProcess([program, "--config", str(config)], folder)
        self._server.wait_for_http(port)

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="session")
def dav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dav]:
    served = Dav(tmp_path_factory.mktemp("dav"))
    yield served
    served.stop()


async def test_a_file(dav: Dav) -> None:
    """Its state is known by an ETag, and parts of it can be had."""
    (dav.root / "w é.bin").write_bytes(W)
    plan = await resolve(f"{dav.url}/w%20%C3%A9.bin", shown(PASSWORD))
    (file,) = plan.files
    assert (file.size, file.ranges) == (len(W), True)
    assert file.validator.etag
    assert file.validator.etag.startswith('"')
    assert plan.is_validated
    assert plan.is_credentialed
    with pytest.raises(NotFound):
        await resolve(f"{dav.url}/nothing.bin", shown(PASSWORD))


async def test_who_asks(dav: Dav) -> None:
    (dav.root / "own.bin").write_bytes(W)
    with pytest.raises(CredentialsMissing):
        await resolve(f"{dav.url}/own.bin", Credentials())
    with pytest.raises(CredentialsInvalid) as caught:
        await resolve(f"{dav.url}/own.bin", shown("wrong-3141"))
    assert "wrong-3141" not in str(caught.value.to_wire())


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
async def test_an_archive_is_to_be_unpacked(dav: Dav, kind: str) -> None:
    tree = {"model.bin": W, "sub/config.json": b"{}"}
    (dav.root / f"m.{kind}").write_bytes(zipped(tree) if kind == "zip" else tar(tree, mode="gz"))
    plan = await resolve(f"{dav.url}/m.{kind}", shown(PASSWORD))
    assert plan.unpack == ("zip" if kind == "zip" else "tar")
    assert list(paths(plan)) == [f"m.{kind}"]


def test_through_a_daemon(dav: Dav, tmp_path: Path) -> None:
    """By parts, unpacked, and again when it has changed."""
    body = os.urandom(9 * MIB)
    tree = {"model.bin": W, "sub/config.json": b"{}"}
    (dav.root / "large.bin").write_bytes(body)
    (dav.root / "tree.tar.gz").write_bytes(tar(tree, mode="gz"))
    asked: dict[str, Any] = {
        "credentials": {"headers": {LOOPBACK: {"Authorization": basic(PASSWORD)}}}
    }
    settings = {"FETCH_PART_SIZE": "8MiB", "FRESHNESS_INTERVAL": "0"}
    with running(tmp_path, **settings) as daemon:
        first = daemon.ask(f"{dav.url}/large.bin", **asked).json()
        assert Path(first["path"], "large.bin").read_bytes() == body
        unpacked = daemon.ask(f"{dav.url}/tree.tar.gz", **asked).json()
        for path, content in tree.items():
            assert Path(unpacked["path"], path).read_bytes() == content
        other = body[::-1]
        (dav.root / "next.bin").write_bytes(other)
        (dav.root / "next.bin").rename(dav.root / "large.bin")
        second = daemon.ask(f"{dav.url}/large.bin", **asked).json()
        assert (second["result"], second["key"]) == ("miss", first["key"])
        assert second["revision"] != first["revision"]
        assert Path(second["path"], "large.bin").read_bytes() == other
        assert daemon.ask(f"{dav.url}/large.bin").json()["code"] == "credentials_missing"
        assert daemon.ask(f"{dav.url}/none.bin", **asked).json()["code"] == "not_found"
        assert PASSWORD not in daemon.log()
