"""Which mount holds a path, from /proc/self/mountinfo (see proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """``device`` is "major:minor" and ``source`` what the kernel names as mounted there."""

    point: Path
    device: str
    kind: str
    source: str


def parse_mountinfo(text: str) -> list[Mount]:
    """Pure. Lines that can't be read are left out."""
    mounts = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if separator and len(fields) >= 6 and len(rest) >= 2:
            mounts.append(
                Mount(
                    point=Path(_unescape(fields[4])),
                    device=fields[2],
                    kind=rest[0],
                    source=_unescape(rest[1]),
                )
            )
    return mounts


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def mount_of(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that holds ``path`` (absolute, resolved): the longest mount point, the last one
    mounted there."""
    best: Mount | None = None
    for mount in mounts:
        if path.is_relative_to(mount.point) and (
            best is None or len(mount.point.parts) >= len(best.point.parts)
        ):
            best = mount
    return best


def read_mounts() -> list[Mount]:
    """Blocking. Empty where there is no /proc."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return parse_mountinfo(text)


def nearest_existing(path: Path) -> Path:
    """``path``, or the first of its parents that exists. Blocking."""
    resolved = path.resolve()
    while not resolved.exists() and resolved != resolved.parent:
        resolved = resolved.parent
    return resolved
