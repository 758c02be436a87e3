"""Patterns with ``*`` (which crosses slashes) and ``?`` over whole texts. A bracket is a bracket.

Piece by piece: as one regular expression, a pattern with many stars could be made to take ages by
whoever chooses the text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def matches_any(patterns: Sequence[str], text: str) -> bool:
    return any(_matcher(pattern)(text) for pattern in patterns)


def matches(pattern: str, text: str) -> bool:
    return _matcher(pattern)(text)


def literal_start(pattern: str) -> str:
    """What every text that the pattern matches begins with."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> Callable[[str], bool]:
    texts = re.split(r"\*+", pattern)
    pieces = [_compile(text) for text in texts]
    if len(pieces) == 1:
        return lambda text: pieces[0].fullmatch(text) is not None
    start, end = len(texts[0]), len(texts[-1])
    least = sum(map(len, texts))

    def matches(text: str) -> bool:
        if len(text) < least or not pieces[0].match(text):
            return False
        place, stop = start, len(text) - end
        if not pieces[-1].match(text, stop):
            return False
        for piece in pieces[1:-1]:
            found = piece.search(text, place, stop)
            if found is None:
                return False
            place = found.end()
        return True

    return matches


def _compile(piece: str) -> re.Pattern[str]:
    return re.compile("".join("." if c == "?" else re.escape(c) for c in piece), re.DOTALL)
