"""Times of the week, such as ``Mon-Fri 02:00-04:00``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, WithJsonSchema

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 24 * 60
_WINDOW = re.compile(r"(?:([a-z,-]+) +)?([0-9]{1,2}):([0-9]{2}) *- *([0-9]{1,2}):([0-9]{2})")
_SAY = "write HH:MM-HH:MM, with days in front if it isn't for all, such as Mon-Fri 02:00-04:00"


@dataclass(frozen=True, slots=True)
class Window:
    """``days`` of its beginning, 0 for Monday; ``start`` and ``end`` in minutes after midnight. One
    that ends before it starts goes on into the next day."""

    days: frozenset[int]
    start: int
    end: int

    def is_open(self, moment: datetime) -> bool:
        """Whether it is open at ``moment``, whatever that one's time zone is."""
        minute, day = moment.hour * 60 + moment.minute, moment.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or (
            (day - 1) % 7 in self.days and minute < self.end
        )


def parse_window(text: str) -> Window:
    """Raises ValueError saying what is wrong."""
    match = _WINDOW.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(_SAY)
    start, end = (int(match[n]) * 60 + int(match[n + 1]) for n in (2, 4))
    if start >= _DAY or end > _DAY or int(match[3]) > 59 or int(match[5]) > 59:
        raise ValueError("a time of day is from 00:00 to 24:00")
    if start == end:
        raise ValueError("a window ends at another time than it begins; the whole day is "
                         "00:00-24:00")  # fmt: skip
    return Window(_days(match[1] or ""), start, end)


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(",") if text else ["mon-sun"]:
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS or part.endswith("-"):
            raise ValueError(f"days are {', '.join(day.title() for day in _DAYS)}")
        day, end = _DAYS.index(first), _DAYS.index(last or first)
        found.add(day)
        while day != end:
            day = (day + 1) % 7
            found.add(day)
    return frozenset(found)


def is_any_open(windows: Iterable[str], moment: datetime) -> bool:
    return any(parse_window(text).is_open(moment) for text in windows)


def _as_windows(value: object) -> object:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(_SAY)
    for text in texts:
        parse_window(text)
    return tuple(texts)


Windows = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_windows),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One time of the week, or several: ``02:00-04:00``, ``Sat,Sun 00:00-24:00``."""
