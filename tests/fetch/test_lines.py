"""Lines of a stream, however it is cut up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from cachd.lines import split_lines


def lines_of(chunks: list[bytes], most: int | None = None) -> list[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def read() -> list[bytes]:
        return [line async for line in split_lines(stream(), most)]

    return asyncio.run(read())


@given(st.lists(st.binary(max_size=6).map(lambda data: data.replace(b"\r", b"\n")), max_size=12))
def test_the_cuts_make_no_difference(chunks: list[bytes]) -> None:
    whole = b"".join(chunks).split(b"\n")[:-1]
    assert lines_of(chunks) == [line for line in whole if line.strip()]


def test_a_line_that_does_not_end_is_none_and_one_without_end_is_an_end() -> None:
    assert lines_of([b"a\nb", b"\nc"]) == [b"a", b"b"]
    assert lines_of([b"a\n", b"x" * 9, b"\nb\n"], most=8) == [b"a"]
    assert lines_of([b"a\n", b"x" * 8, b"\nb\n"], most=8) == [b"a", b"x" * 8, b"b"]
