"""Sizes, times and tables for people. Pure."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_MULTIPLES = {
    "": 1,
    "b": 1,
    **{letter: 1000**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("kmgtp", start=1)},
}


def size(count: float | None) -> str:
    """Bytes in binary units: ``1.50 GiB``; three significant digits; ``-`` for None."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    if unit == 0:
        return f"{int(value)} B"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def parse_size(text: str) -> int:
    """Bytes from ``200GiB``, ``1.5T`` or ``1073741824``. Raises ValueError."""
    cleaned = text.strip().lower().replace(" ", "")
    letters = cleaned.lstrip("0123456789.")
    number = cleaned[: len(cleaned) - len(letters)]
    if letters not in _MULTIPLES or not number:
        raise ValueError(f"{text!r} is no size; write it such as 200GiB or 1073741824")
    return int(float(number) * _MULTIPLES[letters])


def rate(per_second: float | None) -> str:
    return "-" if per_second is None else f"{size(per_second)}/s"


def duration(seconds: float | None) -> str:
    """``850 ms``, ``12 s``, ``3m05s``, ``2h14m``, ``5d03h``; ``-`` for None."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def ago(stamp: str | None, now: datetime | None = None) -> str:
    """An RFC 3339 time as ``5m12s ago``; what can't be read is shown as it came."""
    if not stamp:
        return "-"
    try:
        then = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    return "now" if seconds < 1 else f"{duration(seconds)} ago"


def printable(text: object) -> str:
    """``text`` without control characters: names come from other people's servers."""
    return "".join(
        char if unicodedata.category(char)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for char in str(text)
    )


def printable_lines(text: str) -> str:
    """``printable``, but for line ends."""
    return "\n".join(printable(line) for line in text.splitlines())


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, its middle left out: both ends tell of a model."""
    if len(text) <= width:
        return text
    if width <= 1:
        return text[:width]
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: frozenset[str] = frozenset(),
    width: int | None = None,
    flexible: str | None = None,
) -> str:
    """Aligned columns. Columns named in ``right`` are aligned to the right. Where the table is
    wider than ``width``, the column named ``flexible`` is shortened."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(header)]
    if width and flexible is not None and flexible in header:
        column = list(header).index(flexible)
        over = sum(widths) + 2 * (len(widths) - 1) - width
        if over > 0:
            widths[column] = max(12, widths[column] - over)
            for row in cells:
                row[column] = shorten(row[column], widths[column])
    lines = []
    for row in [list(header), *cells]:
        parts = [
            text.rjust(widths[i]) if header[i] in right else text.ljust(widths[i])
            for i, text in enumerate(row)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """``name: value`` lines, the values aligned; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "")]
    widest = max((len(name) for name, _ in shown), default=0) + 1
    return "\n".join(f"{name + ':':<{widest}}  {printable(value)}" for name, value in shown)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
