"""A file system in a file, for tests that take its disk away."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
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
        """The kernel may take a moment to let go of the last loop device."""
        deadline = time.monotonic() + _PATIENCE
        while not self.is_mounted:
            try:
                _run(["mount", "-o", "loop", str(self._image), str(self.point)])
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def unmount(self) -> None:
        """Once nobody holds it any more; what still does after a while is let go of lazily."""
        deadline = time.monotonic() + _PATIENCE
        while self.is_mounted:
            try:
                _run(["umount", str(self.point)])
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @property
    def is_mounted(self) -> bool:
        """By the kernel's table: a file system that was shut down answers nobody."""
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return str(self.point) in {line.split()[1] for line in mounts}

    def lose_power(self) -> None:
        cut_power(self.point)

    def close(self) -> None:
        if self.is_mounted:
            try:
                self.unmount()
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                _run(["umount", "-l", str(self.point)])
        self._image.unlink(missing_ok=True)


def _run(arguments: list[str]) -> None:
    try:
        subprocess.run(arguments, check=True, capture_output=True, timeout=60)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.decode(errors="replace"))
        raise


@contextlib.contextmanager
def loop_volume(kind: str) -> Iterator[LoopVolume]:
    """Skips the test where it can't be had. In a directory of its own: pytest removes old ones of
    its own while other runs may still have something mounted there."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if shutil.which(_MAKE[kind][0]) is None:
        pytest.skip(f"{_MAKE[kind][0]} is not installed")
    folder = Path(tempfile.mkdtemp(prefix="cachd-loop-"))
    try:
        volume = LoopVolume(folder, kind)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no loop mount of {kind} here: {error.stderr.decode(errors='replace')[:200]}")
    try:
        yield volume
    finally:
        volume.close()
        if not volume.is_mounted:
            volume.point.rmdir()
            folder.rmdir()
