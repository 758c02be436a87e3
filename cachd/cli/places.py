"""What kind of place a destination is: the cache itself, memory, too small."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cachd.cli import render
from cachd.errors import DestinationUnusable, NoSpace

_MEMORY = frozenset({"tmpfs", "ramfs"})
_NO_LIMIT = 2**60


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None if ``path`` can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def cache_root(tree: Path) -> Path | None:
    """The cache's root above a snapshot's tree, if it can be seen from here."""
    for directory in tree.parents:
        with contextlib.suppress(OSError):  # The way there may be closed to this user.
            if (directory / "layout.json").is_file() and (directory / "snapshots").is_dir():
                return directory
    return None


def is_tree_itself(destination: Path, tree: Path) -> bool:
    """Whether the destination *is* the snapshot's tree, under whatever name."""
    here = identity(destination)
    return here is not None and here == identity(tree)


def refuse_inside_cache(destination: Path, tree: Path) -> None:
    """Raise DestinationUnusable if the destination lies inside the cache, or around it.

    Compared by device and inode: a bind mount gives one directory several names.
    """
    root = cache_root(tree) or tree
    forbidden = {identity(root), identity(tree)} - {None}
    real = Path(os.path.realpath(destination))
    for directory in (real, *real.parents):
        if identity(directory) in forbidden:
            raise DestinationUnusable(
                f"the destination is the cache itself: {destination} lies inside {root}",
                hint="choose a destination outside; or leave it out and read the model at the "
                "path that `cachd pull URI` prints",
            )


def file_system(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds ``path``, from ``/proc/self/mountinfo``; empty if
    nobody can say. ``mounts`` replaces that file's text."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split()
        if not separator or len(fields) < 5:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def is_memory(path: Path) -> bool:
    return file_system(path) in _MEMORY


def memory_limit(
    v2: Path = Path("/sys/fs/cgroup/memory.max"),
    v1: Path = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
) -> int | None:
    """This container's memory limit in bytes, of either cgroup version; None for no limit."""
    for path in (v2, v1):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        # Version 1 says "no limit" with the largest number of pages.
        return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None
    return None


def check_space(destination: Path, needed: int, replaced: int) -> bool:
    """Whether old and new files fit at the same time; raises NoSpace if not even the new ones do.

    ``needed``: bytes to be written. ``replaced``: allocated bytes of the files they replace.
    """
    volume = os.statvfs(destination)
    free = volume.f_bavail * volume.f_frsize
    if needed > free + replaced:
        raise NoSpace(
            f"the destination {destination} has {render.size(free + replaced)} for the model's "
            f"{render.size(needed)}",
            hint="make the volume larger (an emptyDir's sizeLimit, a claim's request), or pull "
            "into another one",
            needed=needed,
            free=free,
        )
    return needed <= free


def check_memory(destination: Path, needed: int) -> str | None:
    """A sentence about a destination in memory; raises NoSpace where the container's limit is
    smaller than the model, because the kernel would end the container instead."""
    if not is_memory(destination):
        return None
    limit = memory_limit()
    if limit is not None and needed >= limit:
        raise NoSpace(
            f"the destination {destination} is in memory, and the model's {render.size(needed)} "
            f"don't fit under this container's memory limit of {render.size(limit)}",
            hint="use an emptyDir without `medium: Memory`, or raise the container's limit",
            needed=needed,
            limit=limit,
        )
    return (
        f"the destination {destination} is in memory: the model's {render.size(needed)} count "
        "against the pod's memory limit"
    )
