"""The heads of requests and responses.

h11 parses responses. The plainest kind, which nearly every answer to a range is, takes a shorter
way: a head that fits one strict pattern whole is split at its line ends. With many small files that
is a third of a worker's time. Whatever doesn't fit is h11's to judge.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from cachd.errors import OriginError, OriginStalled, OriginUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.fetch.transport import Transport

HEAD_MOST = 64 * 1024
_READ = 16 * 1024
_TARGET = re.compile(r"[\x21-\x7e]+")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PLAIN = re.compile(
    rb"HTTP/1\.1 (20[06]) [\x20-\x7e]*\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}: ?[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\r\n)+)\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Head:
    """A response's head. Header names are in lower case; ``headers`` joins repeated ones.

    ``length`` is the body's, None if it is chunked or ends with the connection. ``connection`` is
    the parser, for a body of that kind; it may be None where ``length`` is known.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    connection: h11.Connection | None

    def get(self, name: str) -> str | None:
        return self.headers.get(name)


def write_head(method: str, target: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """The bytes of a request without a body.

    Raises OriginError for a URL or a header that HTTP can't carry: nothing may break out of its
    line (RFC 9110 section 5.5, RFC 9112 section 3.2).
    """
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    if not _TARGET.fullmatch(target) or any(_UNFIT.search(line) for line in lines):
        raise OriginError("a URL or header holds characters that HTTP can't carry", final=True)
    lines += ["", ""]
    try:
        return "\r\n".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        raise OriginError(
            "a URL or header holds characters that HTTP can't carry", final=True
        ) from None


def read_head(
    transport: Transport, view: memoryview, method: str, patience: float
) -> tuple[Head, int]:
    """The head of the answer to ``method``, and how many bytes after it now stand at the start of
    ``view``. ``patience`` in seconds until it is complete.

    Raises OriginStalled, OriginUnreachable (the connection ended), OriginError (no HTTP).
    """
    end = time.monotonic() + patience
    filled, searched = 0, 0
    while True:
        position = bytes(view[searched:filled]).find(b"\r\n\r\n")
        if position >= 0:
            cut = searched + position + 4
            data = bytes(view[:cut])
            head = parse_plain(data, method) or parse_any(data, method)
            rest = filled - cut
            view[:rest] = bytes(view[cut:filled])
            if head is not None:
                return head, rest
            # An informational answer (100, 103) is dropped; the real one follows.
            filled, searched = rest, 0
            continue
        searched = max(0, filled - 3)
        if transport.is_eof:
            if filled:
                raise OriginUnreachable("the origin's answer ends within its head")
            raise OriginUnreachable("the origin closed the connection without an answer")
        if filled + _READ > min(HEAD_MOST, len(view)):
            raise OriginError("the head of the origin's answer is larger than 64 KiB")
        if time.monotonic() > end:
            raise OriginStalled("the origin sends no answer")
        filled += transport.receive(view[filled : filled + _READ])


def parse_plain(data: bytes, method: str) -> Head | None:
    """The head of a plain 200 or 206 with a length and no name twice; None if it isn't that."""
    match = _PLAIN.fullmatch(data)
    if match is None or method == "HEAD":
        return None
    lines = match[2].decode("ascii").split("\r\n")[:-1]
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.lstrip(" ")
    length = headers.get("content-length", "")
    if (
        len(headers) != len(lines)
        or "transfer-encoding" in headers
        or _LENGTH.fullmatch(length) is None
    ):
        return None
    keep_alive = "close" not in headers.get("connection", "").lower()
    return Head(int(match[1]), headers, int(length), keep_alive, None)


def parse_any(data: bytes, method: str) -> Head | None:
    """What h11 says; None for an informational answer. Raises OriginError."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MOST)
    try:
        connection.receive_data(data)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise OriginError(f"the origin's answer is no HTTP: {error}") from None
    if isinstance(event, h11.InformationalResponse):
        return None
    if not isinstance(event, h11.Response):
        raise OriginError("the origin's answer is no HTTP response")
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    length: int | None = None
    if method == "HEAD" or event.status_code in (204, 304):
        length = 0
    elif "chunked" not in headers.get("transfer-encoding", "") and "content-length" in headers:
        length = int(headers["content-length"])
    tokens = headers.get("connection", "").lower()
    keep_alive = "close" not in tokens if event.http_version == b"1.1" else "keep-alive" in tokens
    return Head(event.status_code, headers, length, keep_alive, connection)
