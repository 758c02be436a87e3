"""A pod's identity in its cloud, through the real client and daemon, to an origin that looks at who
signs: credentials are changed for the next while the ask waits, and the fetch goes on with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.objects import listing
from tests.harness import Daemon, eventually, running
from tests.servers.clouds import Clouds
from tests.servers.loopback import OCTETS, Handler, Server

PART = 8 * 1024 * 1024
FILES = {f"m/{n}.bin": os.urandom(PART) for n in range(4)}
_KEY = re.compile(r"Credential=(\w+)/")


class SigningOrigin(Server):
    """An S3 origin that takes the access keys in ``valid``. Bodies are held back, but for the
    first ``free`` of them, until ``released`` is set."""

    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.listed_by: list[str] = []
        self.read_by: list[str] = []
        self.refused: list[str] = []
        self.released = threading.Event()
        self.held = threading.Event()
        origin = self

        class OriginHandler(Handler):
            def do_GET(self) -> None:
                origin._answer(self)

            do_HEAD = do_GET

        super().__init__(OriginHandler)

    def stop(self) -> None:
        self.released.set()
        super().stop()

    def _answer(self, handler: Handler) -> None:
        match = _KEY.search(handler.headers.get("Authorization", ""))
        key = match[1] if match else ""
        token = handler.headers.get("x-amz-security-token", "")
        if key not in self.valid or token != key.replace("AKIA", "session-"):
            self.refused.append(key)
            body = b"<Error><Code>ExpiredToken</Code><Message>over</Message></Error>"
            handler.send(403, body, Content_Type="application/xml")
            return
        path, _, query = handler.path.partition("?")
        name = path.removeprefix("/bucket").lstrip("/")
        if not name:
            self.listed_by.append(key)
            handler.send(200, listing(FILES, query), Content_Type="application/xml")
        elif name not in FILES:
            handler.send(404)
        else:
            if handler.command == "GET":
                self.read_by.append(key)
                if len(self.read_by) > 1:
                    self.held.set()
                    self.released.wait(60)
            handler.send_file(FILES[name], OCTETS)


@pytest.fixture
def origin() -> Iterator[SigningOrigin]:
    served = SigningOrigin()
    yield served
    served.stop()


@pytest.fixture
def clouds() -> Iterator[Clouds]:
    served = Clouds()
    yield served
    served.stop()


def start_pull(
    daemon: Daemon, origin: SigningOrigin, clouds: Clouds, tmp_path: Path, *arguments: str
) -> subprocess.Popen[str]:
    (tmp_path / "token").write_text("pods-own-token-2718")
    environ = {
        "PATH": os.environ["PATH"],
        "CACHD_SOCKET": str(daemon.socket),
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/m",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ENDPOINT_URL_STS": clouds.url,
        "AWS_ENDPOINT_URL_S3": origin.url,
        "AWS_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "cachd", *arguments, "s3://bucket/m", str(tmp_path / "out")]
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def tree_of(directory: Path) -> dict[str, bytes]:
    return {f"m/{p.name}": p.read_bytes() for p in directory.iterdir()}


def test_credentials_that_end_are_followed_by_the_next_on_the_same_fetch(
    tmp_path: Path, origin: SigningOrigin, clouds: Clouds
) -> None:
    origin.valid = {"AKIA1", "AKIA2"}
    clouds.lifetimes = [6.0]
    # One connection, so that most parts are begun after the first credentials are over; no linger,
    # so that a fetch that nobody takes part in for a moment would be stopped.
    with running(tmp_path / "d", FETCH_CONNECTIONS="1", FETCH_LINGER="0") as daemon:
        pull = start_pull(daemon, origin, clouds, tmp_path)
        with pull:
            assert origin.held.wait(60)
            # The second ask takes part and the first has gone: from now on its keys are worthless.
            gone = {"endpoint": "ask", "code": "499"}
            eventually(lambda: daemon.metric("cachd_requests_total", **gone) == 1)
            assert clouds.issued == ["AKIA1", "AKIA2"]
            origin.valid.discard("AKIA1")
            origin.released.set()
            out, err = pull.communicate(timeout=60)
        assert pull.returncode == 0, err
        assert tree_of(tmp_path / "out") == FILES
        # Two parts were begun before; on a very slow machine with the next credentials already.
        assert len(origin.read_by) == len(FILES)
        assert set(origin.read_by[2:]) == {"AKIA2"}
        assert origin.refused == []
        assert daemon.metric("cachd_requests_total", endpoint="ask", code="200") == 1
        for secret in ("secret-1", "session-1", "session-2", "own-token-2718"):
            assert secret not in out + err + daemon.log()


def test_new_credentials_that_cannot_be_had_now_are_asked_for_again(
    tmp_path: Path, origin: SigningOrigin, clouds: Clouds
) -> None:
    origin.valid = {"AKIA1", "AKIA2"}
    clouds.lifetimes = [2.0]
    clouds.refusals = [None, (403, "AccessDenied")]
    with running(tmp_path / "d", FETCH_CONNECTIONS="1") as daemon:
        pull = start_pull(daemon, origin, clouds, tmp_path, "pull")
        with pull:
            assert origin.held.wait(60)
            eventually(lambda: len(clouds.calls) >= 2)
            # What the pod has still serves: the fetch doesn't end for that.
            origin.released.set()
            _, err = pull.communicate(timeout=60)
        assert pull.returncode == 0, err
        assert "gave this pod no credentials (403 AccessDenied); the credentials in use" in err
        assert tree_of(tmp_path / "out") == FILES


def test_a_role_that_is_refused_is_told(
    tmp_path: Path, origin: SigningOrigin, clouds: Clouds
) -> None:
    clouds.refusals = [(400, "InvalidIdentityToken")]
    with (
        running(tmp_path / "d") as daemon,
        start_pull(daemon, origin, clouds, tmp_path, "pull") as pull,
    ):
        _, err = pull.communicate(timeout=60)
    assert pull.returncode == 5
    assert "AWS's STS doesn't take this pod's identity (400 InvalidIdentityToken)" in err
    assert "service account's annotation" in err
    assert "own-token-2718" not in err
