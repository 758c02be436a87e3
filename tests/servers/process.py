"""One server process: started, waited for until it answers, ended with what it started."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Sequence

START_SECONDS = 45.0


def find_program(name: str) -> str | None:
    """A program beside this interpreter, or on the path."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return str(beside)
    return shutil.which(name)


class ServerProcess:
    """A process in a session of its own, with its output in ``folder``."""

    def __init__(self, arguments: Sequence[str], folder: Path, **environ: str) -> None:
        self.log = folder / "output.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments,
                cwd=folder,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_for_http(
        self, port: int, path: str = "/", seconds: float = START_SECONDS, host: str = LOOPBACK
    ) -> None:
        """Until any HTTP answer comes from ``port``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            connection = http.client.HTTPConnection(host, port, timeout=2)
            try:
                connection.request("GET", path)
                if connection.getresponse().status < 500:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.05)
        raise RuntimeError(f"no answer on port {port}:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to the whole session."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)
