"""What the root's file system can do: tried, not assumed."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import portalocker

from cachd.store.linux import clone, fallocate, kernel_version
from cachd.store.mounts import mount_of, read_mounts

if TYPE_CHECKING:
    from cachd.store.fsio import SyncMethod

_SYNCFS_SOUND = frozenset({"ext4", "xfs", "btrfs"})
_SCRATCH = "probe-"
_MEMORY = frozenset({"tmpfs", "ramfs"})
_SYNCFS_KERNEL = (5, 8)
"""Older kernels swallow write-back errors in syncfs(2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """``syncfs``: one call makes a whole tree durable and tells of errors. ``sync``: how a commit
    becomes durable. ``fallocate`` is False on tmpfs on purpose: there it zeroes memory. ``device``
    is "major:minor" of the volume."""

    filesystem: str
    mount_point: str
    hard_link: bool
    reflink: bool
    fallocate: bool
    flock: bool
    syncfs: bool
    case_sensitive: bool
    sync: SyncMethod
    device: str = ""

    def lacks(self) -> tuple[str, ...]:
        """What a person should know about, as sentences."""
        sentences = []
        if not self.hard_link:
            sentences.append(
                f"{self.filesystem} at {self.mount_point} has no hard links here: "
                "revisions don't share files"
            )
        if not self.flock:
            sentences.append(
                f"locks do nothing on {self.filesystem} at {self.mount_point}: "
                "see that only one daemon uses the root"
            )
        return tuple(sentences)


def probe(root: Path) -> Capabilities:
    """Try each capability in a scratch directory below ``root``. Blocking; raises OSError."""
    mount = mount_of(root.resolve(), read_mounts())
    kind = mount.kind if mount else "unknown"
    is_memory = kind in _MEMORY
    _clear(root)
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=root / "state"))
    try:
        sound = kind in _SYNCFS_SOUND and kernel_version() >= _SYNCFS_KERNEL
        return Capabilities(
            filesystem=kind,
            mount_point=str(mount.point) if mount else str(root),
            hard_link=_can_link(root, scratch),
            reflink=_can_clone(scratch),
            fallocate=not is_memory and _can_allocate(scratch),
            flock=_can_lock(scratch),
            syncfs=sound,
            case_sensitive=_tells_case(scratch),
            sync="none" if is_memory else "syncfs" if sound else "fsync",
            device=mount.device if mount else "",
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _clear(root: Path) -> None:
    """What a probe that was killed left behind."""
    for scratch in (root / "state").glob(f"{_SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)
    for link in (root / "blobs").glob(f"{_SCRATCH}*.tmp"):
        link.unlink()


def _can_link(root: Path, scratch: Path) -> bool:
    source, target = scratch / "link", root / "blobs" / f"{scratch.name}.tmp"
    source.touch()
    try:
        os.link(source, target)
    except OSError:
        return False
    is_counted = source.stat().st_nlink == 2
    target.unlink()
    return is_counted


def _can_clone(scratch: Path) -> bool:
    (scratch / "clone-source").write_bytes(b"x" * 4096)
    with (scratch / "clone-source").open("rb") as source, (scratch / "clone").open("wb") as target:
        try:
            return clone(source.fileno(), target.fileno())
        except OSError:
            return False


def _can_allocate(scratch: Path) -> bool:
    with (scratch / "allocate").open("wb") as file:
        return fallocate(file.fileno(), 4096)


def _can_lock(scratch: Path) -> bool:
    path = scratch / "lock"
    flags = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
    with path.open("wb") as first, path.open("wb") as second:
        try:
            portalocker.lock(first, flags)
        except portalocker.LockException:
            return False
        try:
            portalocker.lock(second, flags)
        except portalocker.AlreadyLocked:
            return True
        except portalocker.LockException:
            return False
        return False


def _tells_case(scratch: Path) -> bool:
    (scratch / "Case").touch()
    return not (scratch / "cASE").exists()
