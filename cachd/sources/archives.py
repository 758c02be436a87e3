"""Which files are archives, by name; the same for every source.

KServe unpacks what ``mimetypes`` calls application/x-tar or application/zip when it is the only
file of a model (python/storage/kserve_storage/kserve_storage.py, ``_unpack_archive_file``);
``.tar.zst`` is cachd's addition. How an archive is compressed is found from its bytes, later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.model import PlannedFile

ArchiveKind = Literal["", "tar", "zip"]

_TAR_SUFFIXES = (
    ".tar",
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tgz",
    ".taz",
    ".tz",
    ".tbz2",
    ".txz",
    ".tzst",
)


def archive_kind(name: str) -> ArchiveKind:
    """``"tar"``, ``"zip"`` or ``""`` for a file name."""
    lower = name.lower()
    if lower.endswith(_TAR_SUFFIXES):
        return "tar"
    return "zip" if lower.endswith(".zip") else ""


def unpack_of(files: Sequence[PlannedFile]) -> ArchiveKind:
    """How a model of these files is unpacked: a single archive is, anything else isn't."""
    return archive_kind(files[0].path) if len(files) == 1 else ""
