"""Faults of chosen system calls in a running process and its children, injected by strace."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.harness import eventually
from tests.servers import require


def _tracers(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [
                line.split()[1]
                for line in (task / "status").read_text().splitlines()
                if line.startswith("TracerPid:")
            ]
    return found


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


@contextlib.contextmanager
def injected(
    pid: int, calls: str, what: str, log: Path, *, paths: Sequence[Path] = ()
) -> Iterator[None]:
    """While the block runs, ``calls`` (comma between them) of ``pid`` and its children meet
    ``what`` (``error=EIO``, ``delay_enter=500000``), of files named in ``paths`` alone if any."""
    program = require.program("strace", "strace")
    require.root()
    pids = family(pid)
    command = [program, "-f", "-y", "-o", str(log), "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{what}"]
    for path in paths:
        command += ["-P", str(path)]
    for number in pids:
        command += ["-p", str(number)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:

        def is_attached() -> bool:
            if process.poll() is not None:
                assert process.stderr is not None
                pytest.skip(f"strace can't attach here: {process.stderr.read().decode()[-300:]}")
            return all(tracer != "0" for number in pids for tracer in _tracers(number))

        eventually(is_attached)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


def count(log: Path, call: str) -> int:
    """How often ``call`` met the fault."""
    return sum(
        1 for line in log.read_text().splitlines() if f" {call}(" in line and "INJECTED" in line
    )
