"""Processes that the demo starts, and ends again whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PR_SET_PDEATHSIG = 1


class Failure(Exception):
    """The demo did not see what it should have seen."""


def _end_with_parent() -> None:
    """Linux: a killed demo (SIGKILL) takes its servers along."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Running:
    """A server in the background, in a session of its own so that Ctrl-C reaches only the demo."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    @staticmethod
    def start(
        command: list[str], log: Path, *, cwd: Path, environ: dict[str, str] | None = None
    ) -> Running:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        return Running(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, is_ready: Callable[[], bool], name: str, seconds: float) -> None:
        """Raises Failure with the log's tail if the process ends or isn't ready in time."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            status = self._process.poll()
            if status is not None:
                raise Failure(f"{name} ended with status {status}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Failure(f"{name} was not ready in {seconds:.0f} s\n{self.tail()}")
            time.sleep(0.05)

    def stop(self, kill_after: float) -> int:
        """Ask to end, insist after ``kill_after`` seconds; the exit status."""
        self._process.terminate()
        try:
            return self._process.wait(kill_after)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"--- last lines of {self.log.name}", *text[-lines:]])
