"""What HEAD tells of a file. A question that isn't answered costs a checksum, never the fetch."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cachd.errors import CachdError, Cancelled
from cachd.fetch.claims import Facts, read_facts

if TYPE_CHECKING:
    from cachd.fetch.answer import Wanted
    from cachd.fetch.head import Head
    from cachd.fetch.reader import Reader

_ATTEMPTS = 3
_PAUSE = 0.1
"""Seconds before the first repetition; doubled."""


def ask_facts(reader: Reader, wanted: Wanted) -> Facts | None:
    """What the origin says of the whole file; None if it doesn't like the question."""
    head = _ask(reader, wanted)
    return None if head is None else read_facts(head, is_whole=True, has_body=False)


def ask_part(reader: Reader, wanted: Wanted, number: int) -> int | None:
    """The size of a part as the object was uploaded (S3 API Reference, "HeadObject", on
    ``partNumber``); None if the origin doesn't tell."""
    mark = "&" if "?" in wanted.url else "?"
    head = _ask(reader, replace(wanted, url=f"{wanted.url}{mark}partNumber={number}"))
    length = None if head is None else head.get("content-length")
    return int(length) if length and length.isascii() and length.isdigit() else None


def _ask(reader: Reader, wanted: Wanted) -> Head | None:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            return reader.head(wanted)
        except Cancelled:
            raise
        except OSError:
            continue
        except CachdError as error:
            if not error.retryable:
                return None
    return None
