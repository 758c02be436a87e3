"""The root through a read-only mount: a descriptor that was opened there can't be reopened for
writing, whoever has it. Blocking: call these in a thread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.api.tree import open_file
from cachd.errors import ConfigInvalid, DiskError

if TYPE_CHECKING:
    from cachd.cache.types import Snapshot
    from cachd.model import ManifestFile

_FIELD = "store.readonly_root"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class ReadonlyRoot:
    """``twin`` is another mount of ``root``, read-only."""

    def __init__(self, root: Path, twin: Path) -> None:
        self._root = root
        self._twin = twin

    def check(self) -> None:
        """Raises ConfigInvalid unless the twin shows the root, and read-only."""
        try:
            fd = os.open(self._twin, _DIRECTORY)
        except OSError as error:
            raise ConfigInvalid(
                f"{self._twin} can't be opened: {error.strerror}",
                field=_FIELD,
                hint="mount the volume of store.root there a second time, read-only",
            ) from error
        try:
            ours, twin = self._root.stat(), os.fstat(fd)
            if (ours.st_dev, ours.st_ino) != (twin.st_dev, twin.st_ino):
                raise ConfigInvalid(
                    f"{self._twin} is another directory than {self._root}",
                    field=_FIELD,
                    hint="mount the very directory of store.root there, read-only",
                )
            if not _is_read_only(fd):
                raise ConfigInvalid(
                    f"{self._twin} is mounted writable",
                    field=_FIELD,
                    hint="mount it with readOnly: true, so that what pods are given stays whole",
                )
        finally:
            os.close(fd)

    def open(self, snapshot: Snapshot, file: ManifestFile) -> int:
        """A descriptor of ``file``. Raises ModelUnknown, DiskError."""
        tree = self._twin / Path(snapshot.tree).relative_to(self._root)
        fd = open_file(str(tree), file)
        if not _is_read_only(fd):
            os.close(fd)
            raise DiskError(
                f"{self._twin} is mounted writable by now, so no descriptor is given away",
                hint="mount it read-only again, or unset store.readonly_root",
            )
        return fd


def _is_read_only(fd: int) -> bool:
    """Of the mount, which ST_RDONLY tells as well as of the file system."""
    return bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)
