"""``cachd pull`` over TCP: with TLS and a token, and nothing of the daemon in reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Daemon
from tests.process.origin import CountingOrigin
from tests.servers.certificates import Certificates
from tests.servers.ports import LOOPBACK, free_ports

TOKEN = "the-token-of-this-daemon"
DATA = os.urandom(3 << 20)


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def daemon(daemons, port: int, certificates: Certificates, tmp_path: Path) -> Daemon:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    return daemons(
        LISTEN_API_ADDRESS=f"{LOOPBACK}:{port}",
        LISTEN_API_CERTIFICATE=str(certificates.chain),
        LISTEN_API_PRIVATE_KEY=str(certificates.key),
        LISTEN_API_TOKEN_FILE=str(token),
    )


def variables(port: int, certificates: Certificates, **more: str) -> dict[str, str]:
    return {
        "CACHD_API": f"https://{LOOPBACK}:{port}",
        "CACHD_API_TOKEN": TOKEN,
        "CACHD_API_CA": certificates.ca.read_text(),
        "CACHD_API_SERVER_NAME": "localhost",
        "CACHD_SOCKET": "/nowhere/cachd.sock",
        **more,
    }


def pull(uri: str, dest: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CACHD_")}
    return subprocess.run(
        [sys.executable, "-m", "cachd", uri, str(dest)],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_model_comes_as_streams_without_a_socket(
    daemon: Daemon, port: int, certificates: Certificates, origin: CountingOrigin, tmp_path: Path
):
    """The cache's files can be read here, and are not: of another machine they could be others."""
    daemon.start()
    origin.bodies["/m.bin"] = DATA
    done = pull(f"{origin.url}/m.bin", tmp_path / "d", variables(port, certificates))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d" / "m.bin").read_bytes() == DATA
    assert "stream in" in done.stdout
    assert TOKEN not in done.stdout + done.stderr + daemon.log()
    assert origin.sent["/m.bin"] == len(DATA)


def test_a_daemon_that_starts_late_is_waited_for(
    daemon: Daemon, port: int, certificates: Certificates, origin: CountingOrigin, tmp_path: Path
):
    origin.bodies["/m.bin"] = DATA
    environ = variables(port, certificates, CACHD_WAIT_DAEMON="40")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CACHD_")}
    with subprocess.Popen(
        [sys.executable, "-m", "cachd", f"{origin.url}/m.bin", str(tmp_path / "d")],
        env={**clean, **environ},
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stderr is not None
        while "waiting up to" not in (line := client.stderr.readline()):
            assert line, "it ended"
        daemon.start()
        client.communicate(timeout=60)
    assert client.returncode == 0
    assert (tmp_path / "d" / "m.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"CACHD_API_TOKEN": "another"}, "the token is not the right one"),
        ({"CACHD_API_SERVER_NAME": "elsewhere.example"}, "isn't trusted for the name elsewhere"),
        ({"CACHD_API_CA": ""}, "isn't trusted for the name localhost"),
        ({"CACHD_API_CA": "/nowhere/ca.pem"}, "CACHD_API_CA has no authority"),
        ({"CACHD_API_TOKEN": ""}, "CACHD_API_TOKEN has none"),
        ({"CACHD_API": "http://localhost:1"}, "no address of a daemon"),
        ({"CACHD_API": "https://localhost:x"}, "no address of a daemon"),
        ({"CACHD_API": f"https://me:{TOKEN}@localhost:1"}, "no address of a daemon"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    daemon: Daemon,
    port: int,
    certificates: Certificates,
    tmp_path: Path,
    given: dict[str, str],
    said: str,
):
    daemon.start()
    environ = {**variables(port, certificates, CACHD_WAIT_DAEMON="300"), **given}
    done = pull("https://models.example/m.bin", tmp_path / "d", environ)
    assert done.returncode == 1
    assert said in done.stderr
    assert TOKEN not in done.stderr
