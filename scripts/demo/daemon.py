"""The cachd under demonstration: a temporary root, a quota that is small on purpose."""

from __future__ import annotations

import os
import shlex
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from process import Running
from seaweed import Seaweed, free_ports

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


class Daemon:
    """``cachd serve`` below ``directory``, its own identity being that of ``origin``.

    ``quota`` in bytes, ``bandwidth`` in bytes per second.
    """

    def __init__(self, directory: Path, origin: Seaweed, quota: int, bandwidth: int) -> None:
        self._directory = directory
        self._process: Running | None = None
        self.socket = directory / "cachd.sock"
        self.health = f"127.0.0.1:{free_ports(1)[0]}"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CACHD_", "AWS_", "S3_", "STORAGE_"))
        }
        self.client_environ = {
            **clean,
            "CACHD_SOCKET": str(self.socket),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self._arguments = [
            *("serve", "--root", str(directory / "store"), "--socket", str(self.socket)),
            *("--quota", f"{quota // MIB}MiB", "--set", "store.free_floor=64MiB"),
            *("--set", f"fetch.bandwidth={bandwidth // MIB}MiB"),
            *("--health-address", self.health),
        ]
        self._identity = {
            "AWS_ENDPOINT_URL": origin.endpoint,
            "AWS_ACCESS_KEY_ID": origin.access_key,
            "AWS_SECRET_ACCESS_KEY": origin.secret_key,
        }
        self._environ = {
            **self.client_environ,
            **self._identity,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @property
    def shown_command(self) -> str:
        """What was run, as a person would type it, the secret apart."""
        shown = self._identity | {"AWS_SECRET_ACCESS_KEY": "…"}
        lines = [f"{name}={value} \\" for name, value in shown.items()]
        return "\n  ".join([*lines, shlex.join(["cachd", *self._arguments])])

    def start(self) -> None:
        """Start and wait until ``/readyz`` says yes. Raises Failure with the log's tail."""
        self._directory.mkdir()
        self._process = Running.start(
            [sys.executable, "-m", "cachd", *self._arguments],
            self._directory / "cachd.log",
            cwd=self._directory,
            environ=self._environ,
        )
        self._process.wait_until(self._is_ready, "cachd", 30)

    def stop(self) -> int | None:
        """The exit status; None if it was never started."""
        return self._process.stop(kill_after=30) if self._process else None

    def tail(self) -> str:
        return self._process.tail() if self._process else ""

    def metrics(self) -> list[str]:
        """The lines of ``/metrics`` that are samples."""
        with urllib.request.urlopen(f"http://{self.health}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.health}/readyz", timeout=2):
                return self.socket.exists()
        except (urllib.error.URLError, OSError):
            return False
