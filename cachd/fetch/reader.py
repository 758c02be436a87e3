"""One part: request, checks, body into place with its block checksums, on one connection."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import h11

from cachd import __version__
from cachd.errors import (
    CachdError,
    EgressForbidden,
    OriginError,
    OriginStalled,
    OriginTls,
    OriginUnreachable,
    SizeMismatch,
)
from cachd.fetch import crc
from cachd.fetch.answer import Wanted, check_answer, check_validators, request_headers
from cachd.fetch.claims import Facts, read_facts
from cachd.fetch.connect import split_url
from cachd.fetch.head import HEAD_MOST, Head, read_head, write_head
from cachd.fetch.place import start_writeback, write_at
from cachd.fetch.rate import StallWatch
from cachd.fetch.refusal import parse_refusal
from cachd.model import BLOCK_SIZE

if TYPE_CHECKING:
    from cachd.fetch.connect import Target
    from cachd.fetch.transport import Transport
    from cachd.fetch.work import Work

REDIRECTS_MOST = 20
"""Only a circle has more: how many are allowed was judged when the fetch was planned."""

LOCATION_TTL = 60.0
"""Seconds that the end of a chain of redirects is remembered: it may be signed for minutes only."""

_EXPIRED = frozenset({400, 401, 403, 404, 410, 412})
_USER_AGENT = f"cachd/{__version__}"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WRITEBACK_LEAST = 4 * 1024 * 1024


@dataclass(slots=True)
class Outcome:
    """What is in place now: ``blocks`` are whole blocks from the part's offset on, even if the
    request failed after them. ``received`` counts body bytes."""

    blocks: list[str] = field(default_factory=list)
    length: int = 0
    received: int = 0
    facts: Facts | None = None


class Reader:
    """Fetches parts for one thread, which owns the buffer."""

    def __init__(self, work: Work, buffer: bytearray) -> None:
        self._work = work
        self._view = memoryview(buffer)

    def fetch(self, wanted: Wanted, fd: int, outcome: Outcome) -> None:
        """Put the part into the file ``fd`` and fill ``outcome`` as it goes on.

        Raises CachdError; then ``outcome`` says how far it came.
        """
        try:
            exchange = self._request("GET", wanted)
        except OSError as error:
            raise _lost(error) from None
        try:
            outcome.facts = read_facts(
                exchange.head,
                is_whole=wanted.is_whole or wanted.length == wanted.size,
            )
            expected = check_answer(wanted, exchange.head)
            try:
                self._read_body(exchange, wanted, expected, fd, outcome)
            except OSError as error:
                raise _lost(error) from None
        except BaseException:
            exchange.transport.close()
            raise
        finally:
            self._work.release(exchange.transport)
        self._give_back(exchange)

    def head(self, wanted: Wanted) -> Head:
        """The head of the answer to HEAD. Raises CachdError, OSError."""
        exchange = self._request("HEAD", wanted)
        self._work.release(exchange.transport)
        self._give_back(exchange)
        check_validators(wanted, exchange.head)
        return exchange.head

    # --- the request ---------------------------------------------------------------------------

    def _request(self, method: str, wanted: Wanted) -> _Exchange:
        """An answer of 200 or 206, redirects followed."""
        url = self._work.locations.get(wanted.url, time.monotonic())
        was_cached = url is not None
        try:
            return self._follow(method, url or self._work.place_of(wanted.url), wanted)
        except CachdError as error:
            if not was_cached or error.detail.get("status") not in _EXPIRED:
                raise
        # The remembered address may have expired; ask the origin itself where to go.
        self._work.locations.forget(wanted.url)
        return self._follow(method, self._work.place_of(wanted.url), wanted)

    def _follow(self, method: str, url: str, wanted: Wanted) -> _Exchange:
        for _ in range(REDIRECTS_MOST + 1):
            exchange = self._exchange(method, url, wanted)
            status = exchange.head.status
            if status in (200, 206):
                # A URL with a range in it is asked for again only if that server failed.
                if url != wanted.url and not wanted.is_in_query:
                    self._work.locations.remember(wanted.url, url, time.monotonic() + LOCATION_TTL)
                return exchange
            location = exchange.head.get("location")
            if status in _REDIRECTS and location and not wanted.is_s3:
                self._finish(exchange)
                url = _next_url(url, location)
                continue
            body = b"" if method == "HEAD" else self._read_some(exchange)
            self._work.release(exchange.transport)
            exchange.transport.close()
            raise parse_refusal(status, exchange.head.headers, body, wanted.path)
        raise OriginError(
            f"the origin redirects {wanted.path} more than {REDIRECTS_MOST} times", final=True
        )

    def _exchange(self, method: str, url: str, wanted: Wanted) -> _Exchange:
        """Send one request, read one head. A kept connection that turns out dead is replaced."""
        work = self._work
        scheme, host, port, name, path = split_url(work.with_query(url, wanted.url))
        target = work.connector.target(
            scheme,
            host,
            port,
            verify=work.verify,
            ca_pem=work.ca_pem,
            client_pem=work.client_pem,
        )
        headers = [("host", name), ("user-agent", _USER_AGENT), *request_headers(wanted)]
        if method == "HEAD":
            headers = [pair for pair in headers if pair[0] != "range"]
        elif wanted.post:
            method = "POST"
            headers.append(("content-length", str(len(wanted.post.encode()))))
        headers += work.auth_headers(method, url, wanted.url, headers)
        if target.proxy is not None and scheme == "http":
            path = f"http://{name}{path}"
            if target.proxy.authorization:
                headers.append(("proxy-authorization", target.proxy.authorization))
        data = write_head(method, path, headers)
        if method == "POST":
            data += wanted.post.encode()
        transport = work.connector.take(target)
        while True:
            is_fresh = transport is None
            if transport is None:
                transport = work.connector.open(
                    target, timeout=work.connect_timeout, watch=work.watch
                )
            work.hold(transport)
            try:
                transport.requests += 1
                transport.send(data)
                head, rest = read_head(transport, self._view, method, work.head_patience)
                return _Exchange(head, transport, target, rest)
            except (OSError, OriginUnreachable):
                work.release(transport)
                transport.close()
                if is_fresh:
                    raise
                transport = None
            except BaseException:
                work.release(transport)
                transport.close()
                raise

    def _read_some(self, exchange: _Exchange) -> bytes:
        """The beginning of an error's body."""
        head, filled = exchange.head, exchange.rest
        end = time.monotonic() + 5.0
        most = min(HEAD_MOST, head.length) if head.length is not None else HEAD_MOST
        try:
            while filled < most and not exchange.transport.is_eof and time.monotonic() < end:
                filled += exchange.transport.receive(self._view[filled:most])
                if b"</Error>" in bytes(self._view[:filled]):
                    break
        except OSError:
            pass
        return bytes(self._view[:filled])

    def _finish(self, exchange: _Exchange) -> None:
        """Read a redirect's little body away to keep the connection, or close it."""
        self._work.release(exchange.transport)
        length = exchange.head.length
        if length is not None and length == exchange.rest:
            self._give_back(exchange)
        else:
            exchange.transport.close()

    def _give_back(self, exchange: _Exchange) -> None:
        is_clean = exchange.head.length is not None and not exchange.is_tainted
        if exchange.head.keep_alive and is_clean:
            self._work.connector.give_back(exchange.target, exchange.transport)
        else:
            exchange.transport.close()

    # --- the body ------------------------------------------------------------------------------

    def _read_body(
        self,
        exchange: _Exchange,
        wanted: Wanted,
        expected: int | None,
        fd: int,
        outcome: Outcome,
    ) -> None:
        sink = Sink(self._work, wanted, fd, outcome)
        try:
            if exchange.head.length is not None:
                assert expected is not None
                self._read_counted(exchange, expected, sink)
            else:
                self._read_framed(exchange, expected, sink)
        except BaseException:
            sink.finish(is_end=False)
            raise
        sink.finish(is_end=True)

    def _read_counted(self, exchange: _Exchange, expected: int, sink: Sink) -> None:
        """Straight from the socket: the buffer is filled, then written, then summed."""
        transport, view, work = exchange.transport, self._view, self._work
        # Bytes beyond the announced ones are nobody's: the connection is of no more use.
        exchange.is_tainted = exchange.rest > expected
        filled, left = min(exchange.rest, expected), expected
        work.progress(filled)
        watch = StallWatch(work.stall_floor, work.stall_window, time.monotonic())
        while left:
            want = min(len(view), left)
            while filled < want:
                step = min(want - filled, work.bucket.chunk)
                count = transport.fill(view[filled : filled + step], left - filled)
                filled += count
                work.progress(count)
                watch.pause(work.bucket.take(count))
                if transport.is_eof:
                    sink.write(view[:filled])
                    raise OriginUnreachable(
                        f"the origin closed the connection {left - filled} bytes too early"
                    )
                if watch.is_stalled(count, time.monotonic()):
                    sink.write(view[:filled])
                    raise _stalled(work)
            sink.write(view[:want])
            left -= want
            filled = 0

    def _read_framed(self, exchange: _Exchange, expected: int | None, sink: Sink) -> None:
        """Chunked, or until the connection ends: h11 takes the frames off."""
        transport, view, work = exchange.transport, self._view, self._work
        connection = exchange.head.connection
        assert connection is not None
        watch = StallWatch(work.stall_floor, work.stall_window, time.monotonic())
        count = exchange.rest
        total = 0
        connection_data = bytes(view[:count])
        work.progress(count)
        fill, filled = view, 0
        try:
            while True:
                if connection_data:
                    connection.receive_data(connection_data)
                elif transport.is_eof:
                    connection.receive_data(b"")
                while True:
                    event = connection.next_event()
                    if isinstance(event, h11.Data):
                        total += len(event.data)
                        if expected is not None and total > expected:
                            raise SizeMismatch(
                                f"the origin sends more than the {expected} bytes planned",
                                planned=expected,
                                final=True,
                            )
                        data = memoryview(event.data)
                        while data:
                            step = min(len(data), len(fill) - filled)
                            fill[filled : filled + step] = data[:step]
                            filled += step
                            data = data[step:]
                            if filled == len(fill):
                                sink.write(fill)
                                filled = 0
                        continue
                    if event is h11.NEED_DATA:
                        break
                    sink.write(fill[:filled])
                    if expected is not None and total != expected:
                        raise OriginUnreachable(
                            f"the origin's answer ends after {total} of {expected} bytes"
                        )
                    return
                step = min(64 * 1024, work.bucket.chunk)
                scratch = work.scratch(step)
                count = transport.receive(scratch)
                work.progress(count)
                watch.pause(work.bucket.take(count))
                connection_data = bytes(scratch[:count])
                if watch.is_stalled(count, time.monotonic()):
                    raise _stalled(work)
        except h11.RemoteProtocolError:
            raise OriginUnreachable("the origin's answer breaks off within a frame") from None


@dataclass(slots=True)
class _Exchange:
    """An answer's head, and ``rest`` bytes of its body at the start of the buffer."""

    head: Head
    transport: Transport
    target: Target
    rest: int
    is_tainted: bool = False


class Sink:
    """Writes a body in order and sums its blocks while the bytes are hot."""

    def __init__(self, work: Work, wanted: Wanted, fd: int, outcome: Outcome) -> None:
        self._work = work
        self._wanted = wanted
        self._fd = fd
        self._outcome = outcome
        self._sum = 0
        self._in_block = 0

    def write(self, view: memoryview) -> None:
        if not view:
            return
        outcome = self._outcome
        offset = self._wanted.offset + outcome.received
        self._work.reserve(offset + len(view), self._wanted)
        with self._work.writing(self._wanted.path):
            write_at(self._fd, view, offset, self._wanted.path)
        outcome.received += len(view)
        while view:
            step = min(len(view), BLOCK_SIZE - self._in_block)
            self._sum = crc.update(view[:step], self._sum)
            self._in_block += step
            view = view[step:]
            if self._in_block == BLOCK_SIZE:
                self._close_block()

    def finish(self, *, is_end: bool) -> None:
        """``is_end``: the body came to its end, so that the last block is whole if shorter."""
        outcome = self._outcome
        if is_end and self._in_block:
            self._close_block()
        if outcome.length >= _WRITEBACK_LEAST:
            start_writeback(self._fd, self._wanted.offset, outcome.length)

    def _close_block(self) -> None:
        self._outcome.blocks.append(crc.to_hex(self._sum))
        self._outcome.length += self._in_block
        self._sum = self._in_block = 0


def _next_url(url: str, location: str) -> str:
    """Where a redirect leads. Raises EgressForbidden for a way out of TLS."""
    following = urljoin(url, location.strip())
    if url.startswith("https:") and not following.startswith("https:"):
        raise EgressForbidden("the origin redirects from https to something else")
    return following


def _stalled(work: Work) -> OriginStalled:
    return OriginStalled(
        f"the origin sends less than {work.stall_floor:.0f} bytes/s over {work.stall_window:g} s"
    )


def _lost(error: OSError) -> OriginError:
    if isinstance(error, ssl.SSLError) and "CERTIFICATE" in (error.reason or ""):
        # Under TLS 1.3 the server looks at the client's certificate after the handshake.
        return OriginTls(
            f"the origin refuses the certificate that is shown, or wants one ({error.reason})",
            hint="send client_pem: a certificate that it knows, with its key",
        )
    return OriginUnreachable(f"the connection to the origin broke: {error.strerror or error}")
