"""How much a model may hold, counted while it is listed."""

from __future__ import annotations

from cachd.errors import ContentError

MAX_FILES = 500_000
"""Most files of one model; more is a bucket that was meant to be a prefix."""

MAX_NAMES = 64 * 1024 * 1024
"""Most bytes of all names together: the daemon keeps them in memory."""

MAX_SIZE = 1 << 62
"""Bytes of one file: more than any file system holds."""


def parse_size(text: str | None) -> int | None:
    """A number of bytes in digits; None for what is none that a file can have."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text) if int(text) <= MAX_SIZE else None


class Census:
    """Counts the files of ``what``."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._files = 0
        self._names = 0

    def count(self, path: str) -> None:
        """One more file. Raises ContentError."""
        self._files += 1
        self._names += len(path.encode("utf-8", "surrogatepass"))
        if self._files > MAX_FILES:
            raise self._too_much(f"more than {MAX_FILES} files")
        if self._names > MAX_NAMES:
            raise self._too_much(f"files whose names are longer than {MAX_NAMES >> 20} MiB in all")

    def _too_much(self, how_much: str) -> ContentError:
        return ContentError(
            f"{self._what} holds {how_much}",
            hint="name the model's own path, or narrow it by patterns",
        )
