"""Archives become trees: regular files only, inside the tree only, within limits.

Blocking; runs in a worker process. On any error the caller discards the tree.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Literal

from cachd.fetch.place import disk_error
from cachd.fetch.unpack_stream import Stream
from cachd.fetch.unpack_tar import unpack_tar
from cachd.fetch.unpack_tree import Tree, UnpackLimits
from cachd.fetch.unpack_zip import unpack_zip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cachd.model import ManifestFile

__all__ = ["UnpackLimits", "unpack_archive"]


def unpack_archive(
    archive: Path,
    tree: Path,
    kind: Literal["tar", "zip"],
    name: str,
    limits: UnpackLimits,
    grow: Callable[[int], None],
    report: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> list[ManifestFile]:
    """Unpack ``archive`` (called ``name`` in messages) into the existing directory ``tree``.

    A tar may also come from a pipe (a path below ``/proc/self/fd``); its ratio is not judged then.
    How a tar is compressed (gzip, bzip2, xz, zstd, not at all) is found from its bytes. ``grow`` is
    called with further bytes to reserve before they are written, in steps of at most 64 MiB where
    that is enough, and may raise; ``report`` is told of bytes just written; ``cancelled`` is asked
    after each MiB. Links become hard links to the regular member they lead to. Empty directories
    are left out: a snapshot holds files.

    Returns the files sorted by path, with block checksums and without ETags. Raises ArchiveInvalid,
    ArchiveLimit, PathUnsafe, DiskFull, DiskError, Cancelled, and what ``grow`` raises.
    """
    try:
        with open(archive, "rb") as file:
            facts = os.fstat(file.fileno())
            size = facts.st_size if stat.S_ISREG(facts.st_mode) else None
            with Tree(tree, name, size, limits, grow, report, cancelled) as target:
                if kind == "zip":
                    unpack_zip(file, target, name)
                else:
                    unpack_tar(Stream(file, name, target.count_inflated), target, name)
                return target.finish()
    except OSError as error:
        raise disk_error(error, name) from error
