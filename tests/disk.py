"""What is on a disk, and how it rots."""

from __future__ import annotations

from pathlib import Path

FLIPPED = 4
"""The bit of a byte that ``flip`` changes."""


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, hidden ones as well, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names_below(folder: Path) -> list[str]:
    """Directories as well."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def flip(path: Path, offset: int) -> None:
    """In place, for other names of the file see it as well; published files are read-only."""
    mode = path.stat().st_mode & 0o7777
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ FLIPPED]))
    path.chmod(mode)
