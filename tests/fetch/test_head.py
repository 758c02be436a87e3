"""The short way through a response's head says what h11 says, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachd.errors import OriginError
from cachd.fetch.head import parse_any, parse_plain

NAMES = st.sampled_from(
    ["Content-Length", "ETag", "Transfer-Encoding", "Connection", "X-A", "x-a", "Content-Range"]
)
VALUES = st.one_of(
    st.sampled_from(["5", "007", "+5", "5, 5", "chunked", "close", "keep-alive", '"abc"', "", " "]),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
LINES = st.lists(
    st.tuples(NAMES, st.sampled_from([":", ": ", ":  ", " :", ":\t"]), VALUES), max_size=6
)
STATUS = st.sampled_from(
    ["HTTP/1.1 206 Partial Content", "HTTP/1.1 200 OK", "HTTP/1.1 200 ", "HTTP/1.1 404 No", "x"]
)


@given(STATUS, LINES, st.sampled_from(["\r\n", "\n"]))
@example("HTTP/1.1 200 OK", [("Content-Length", ": ", "5"), ("ETag", ": ", '"a"')], "\r\n")
def test_the_short_way_agrees_with_h11(
    status: str, lines: list[tuple[str, str, str]], end: str
) -> None:
    text = end.join([status, *("".join(line) for line in lines), "", ""])
    data = text.encode("latin-1")
    plain = parse_plain(data, "GET")
    if plain is None:
        return
    full = parse_any(data, "GET")
    assert full is not None
    assert (plain.status, plain.headers, plain.length, plain.keep_alive) == (
        full.status,
        full.headers,
        full.length,
        full.keep_alive,
    )


def test_a_usual_answer_takes_the_short_way() -> None:
    data = (
        b"HTTP/1.1 206 Partial Content\r\nServer: nginx\r\nDate: Wed, 25 Nov 2026 12:00:00 GMT\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Length: 16384\r\nConnection: keep-alive"
        b'\r\nETag: "6923-4000"\r\nContent-Range: bytes 0-16383/32768\r\n\r\n'
    )
    head = parse_plain(data, "GET")
    assert head is not None
    assert head.length == 16384
    assert head.get("etag") == '"6923-4000"'


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: -5",
        "Content-Length: 5\r\n folded",
        "ETag: x",
        "Content-Length: 5\r\nX:\x00",
    ],
)
def test_what_is_odd_is_left_to_h11(head: str) -> None:
    data = f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode()
    assert parse_plain(data, "GET") is None


def test_h11_refuses_two_lengths() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"
    with pytest.raises(OriginError):
        parse_any(data, "GET")
