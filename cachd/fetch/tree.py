"""The directories that a fetch writes into. Blocking; the mover calls these in threads."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cachd.fetch.place import disk_error, open_place

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.model import Plan

ARCHIVE = "archive"
"""Beside the tree: where an archive lies until it is unpacked."""


def prepare_tree(tree: Path, plan: Plan) -> None:
    """Make the directories, and the empty files, for which nobody asks an origin.

    Raises DiskError, DiskFull.
    """
    root = tree.parent / ARCHIVE if plan.unpack else tree
    try:
        tree.mkdir(parents=True, exist_ok=True)
        root.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(error, root.name) from None
    for file in plan.files:
        if file.size == 0:
            with open_place(str(root), file.path, truncate=True):
                pass


def prepare_unpack(tree: Path, name: str = "") -> Path:
    """The archive's path, or that of the directory of all. The tree is emptied: an unpacking that
    was killed may have left members behind. Raises DiskError."""
    try:
        for entry in tree.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    except OSError as error:
        raise disk_error(error, tree.name) from None
    return tree.parent / ARCHIVE / name


def clear_archive(tree: Path) -> None:
    """The archive has done its duty."""
    shutil.rmtree(tree.parent / ARCHIVE, ignore_errors=True)
