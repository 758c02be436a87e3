"""File systems of a test's own: a tmpfs, or a file with a file system in it, mounted and undone."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import require

MIB = 1 << 20
PATIENCE = 30.0
"""Seconds for one command on a file system; a frozen one would wait for ever."""

_MAKE = {
    "ext4": (["mkfs.ext4", "-q", "-F"], "e2fsprogs"),
    "xfs": (["mkfs.xfs", "-q", "-f", "-m", "reflink=1"], "xfsprogs"),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], "btrfs-progs"),
}


def run(*command: str | Path) -> str:
    """What it says; fails the test if it fails or hangs."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, timeout=PATIENCE, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass
class Volume:
    path: Path
    kind: str

    @property
    def root(self) -> Path:
        return self.path / "root"

    @property
    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @property
    def device(self) -> str:
        number = self.path.stat().st_dev
        return f"{os.major(number)}:{os.minor(number)}"

    def fill(self, leave: int = 0, name: str = "neighbour") -> Path:
        """Another writer takes all but ``leave`` bytes of what is free now."""
        path = self.path / name
        chunk = b"n" * 65536
        left = self.free - leave if leave else 1 << 60
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while left > 0:
                left -= file.write(chunk[: min(len(chunk), left)])
        return path

    def remount(self, options: str) -> None:
        run("mount", "-o", f"remount,{options}", self.path)


def _unmount(path: Path) -> None:
    """At once for everybody who looks for it, whoever still has it open."""
    subprocess.run(["umount", "-l", path], capture_output=True, timeout=PATIENCE)


@contextlib.contextmanager
def tmpfs(path: Path, size: int) -> Iterator[Volume]:
    require.root()
    path.mkdir(parents=True)
    options = f"size={size},mode=755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield Volume(path, "tmpfs")
    finally:
        _unmount(path)


@contextlib.contextmanager
def loop(path: Path, kind: str, size: int, options: str = "") -> Iterator[Volume]:
    """A file of ``size`` bytes beside ``path``, with a file system of ``kind`` in it."""
    require.root()
    (make, *arguments), package = _MAKE[kind]
    make = require.program(make, package)
    path.mkdir(parents=True)
    image = path.with_name(f"{path.name}.img")
    with image.open("wb") as file:
        file.truncate(size)
    run(make, *arguments, image)
    wanted = ",".join(filter(None, ["loop", options]))
    done = subprocess.run(
        ["mount", "-t", kind, "-o", wanted, image, path], capture_output=True, text=True
    )
    if done.returncode != 0:
        image.unlink()
        pytest.skip(f"no {kind} can be mounted here: {done.stderr.strip()}")
    try:
        yield Volume(path, kind)
    finally:
        # The loop device frees itself with the last user (autoclear).
        _unmount(path)
        image.unlink()
