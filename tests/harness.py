"""A real daemon in a real process, and a client that asks it over its sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachd.catalogue import CATALOGUE

START_TIMEOUT = 60.0
METRICS = {
    name
    for metric in CATALOGUE
    for name in (metric.name, *(f"{metric.name}_{part}" for part in ("bucket", "sum", "count")))
}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, with nothing of cachd's own client in it."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        super().__init__("cachd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    path: Path,
    method: str,
    target: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60.0,
) -> Reply:
    connection = UnixConnection(path, timeout)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, target, data, headers or {})
        response = connection.getresponse()
        return Reply(
            response.status,
            {k.lower(): v for k, v in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


@dataclass
class Daemon:
    """``python -m cachd serve`` in a directory of its own. ``settings`` become the environment."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        # Socket paths are short (107 bytes), pytest's directories are not.
        self.run = Path(tempfile.mkdtemp(prefix="cachd-"))
        self.run.chmod(0o755)
        self.socket = self.run / "cachd.sock"
        self.admin_socket = self.run / "admin.sock"
        self.root = self.home / "root"
        self.log_path = self.home / "daemon.log"

    def variables(self) -> dict[str, str]:
        inherited = ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START", "PYTHONPATH")
        return {
            **{name: os.environ[name] for name in inherited if name in os.environ},
            "CACHD_STORE_ROOT": str(self.root),
            "CACHD_SOCKET": str(self.socket),
            "CACHD_STORE_FREE_FLOOR": "64MiB",
            "CACHD_LOG_LEVEL": "debug",
            "AWS_EC2_METADATA_DISABLED": "true",
            **{f"CACHD_{name}": value for name, value in self.settings.items()},
            **self.environ,
        }

    def command(self) -> list[str]:
        return [sys.executable, "-m", "cachd", "serve"]

    def start(self, *, wait: bool = True) -> Daemon:
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.variables(),
                cwd=self.home,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended: {self.log()[-3000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                return call(self.socket, "GET", "/readyz", timeout=5).status == 200
            return False

        eventually(is_ready, START_TIMEOUT)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ask(self, uri: str, **body: Any) -> Reply:
        return call(self.socket, "POST", "/v1/models", {"uri": uri, **body})

    def admin(self, method: str, target: str, body: Any = None) -> Reply:
        return call(self.admin_socket, method, target, body)

    def terminate(self, timeout: float = 60.0) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        # It ends once the disk has done what it waits for.
        self.process.wait(60)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(60)
        for path in (self.socket, self.admin_socket):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.run.rmdir()

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample, 0 if it isn't there yet."""
        assert name in METRICS, f"there is no metric {name}"
        text = self.admin("GET", "/metrics").body.decode()
        want = {f'{key}="{value}"' for key, value in labels.items()}
        total = 0.0
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            found, _, rest = head.partition("{")
            if found == name and want <= set(rest.rstrip("}").split(",")) | (
                set() if want else {""}
            ):
                total += float(value)
        return total


def pull(daemon: Daemon, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """``cachd pull`` as a process of its own, whose environment says nothing more."""
    return subprocess.run(
        [sys.executable, "-m", "cachd", "pull", *map(str, arguments)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(daemon.home),
            "CACHD_SOCKET": str(daemon.socket),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def running(home: Path, environ: dict[str, str] | None = None, **settings: str) -> Iterator[Daemon]:
    daemon = Daemon(home, settings=settings, environ=environ or {})
    try:
        yield daemon.start()
    finally:
        daemon.close()


def eventually(condition: Any, timeout: float = 60.0) -> None:
    """Poll until ``condition()`` is true; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout:g} s: {condition}")
        time.sleep(0.02)
