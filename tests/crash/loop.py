"""A file system in a file, for tests that take its disk away."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.serve_dying import cut_power

SIZE = 500 << 20
_PATIENCE = 15.0
_MAKE = {
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
}


class LoopVolume:
    """Mounted at ``point``. Commands have time limits: a stuck one fails the test, not the run."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._image = folder / f"{kind}.img"
        self.point = folder / kind
        self.point.mkdir()
        with self._image.open("wb") as file:
            file.truncate(SIZE)
        _run([*_MAKE[kind], str(self._image)])
        self.mount()

    def mount(self) -> None:
        _run(["mount", "-o", "loop", str(self._image), str(self.point)])

    def unmount(self) -> None:
        """Once nobody holds it any more; what still does after a while is let go of lazily."""
        deadline = time.monotonic() + _PATIENCE
        while os.path.ismount(self.point):
            try:
                _run(["umount", str(self.point)])
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def lose_power(self) -> None:
        cut_power(self.point)

    def close(self) -> None:
        if os.path.ismount(self.point):
            try:
                self.unmount()
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                _run(["umount", "-l", str(self.point)])
        self._image.unlink(missing_ok=True)


def _run(arguments: list[str]) -> None:
    subprocess.run(arguments, check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def loop_volume(folder: Path, kind: str) -> Iterator[LoopVolume]:
    """Skips the test where it can't be had."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if shutil.which(_MAKE[kind][0]) is None:
        pytest.skip(f"{_MAKE[kind][0]} is not installed")
    try:
        volume = LoopVolume(folder, kind)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop mount of {kind} here: {error.stderr.decode()[:200]}")
    try:
        yield volume
    finally:
        volume.close()
