"""Opening files of a snapshot: component by component, without following a link. Blocking: call it
in a thread."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cachd.errors import DiskError, ModelUnknown

if TYPE_CHECKING:
    from cachd.model import ManifestFile

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_file(tree: str, file: ManifestFile) -> int:
    """A descriptor of ``file`` below ``tree``, a regular file of the manifest's size.

    Raises ModelUnknown if it went away in the meantime, DiskError if it isn't what it should be.
    """
    parts = file.path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise DiskError("a manifest names a path that leaves its snapshot")
    try:
        opened = _walk(tree, parts)
    except FileNotFoundError:
        raise ModelUnknown(
            "the model was evicted in the meantime",
            hint="ask for it again with POST /v1/models, with a lease to keep it",
        ) from None
    except OSError as error:
        raise DiskError(f"a file of the snapshot can't be read: {error.strerror}") from error
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        os.close(opened)
        raise DiskError(
            "a file of the snapshot is not what its manifest says",
            hint="remove the model and ask for it again",
        )
    return opened


def _walk(tree: str, parts: list[str]) -> int:
    here = os.open(tree, _DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        return os.open(parts[-1], _FILE, dir_fd=here)
    finally:
        os.close(here)
