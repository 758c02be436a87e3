"""A reverse proxy before any HTTP server: it notes what passes, and misbehaves as told.

The server's own ``Host`` stays what the client sent, so that signatures hold and servers that
write absolute URLs write the gate's. A connection carries one exchange.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.origins.exchange import Seen
from tests.origins.sockets import read_head, reset_when_closed, shut
from tests.servers.ports import LOOPBACK, free_ports

Matches = Callable[[Seen], bool]
Refusal = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


@dataclass
class Passage(Seen):
    """An exchange: ``sent`` body bytes have left, ``status`` is what was answered."""

    sent: int = 0
    status: int = 0


@dataclass
class Rule:
    """What happens to the exchanges that match, ``times`` times after ``skip`` of them.

    ``refuse``: this answer in the server's place. ``act``: done before the server is asked.
    ``flip``: this byte of the body is wrong. ``cut``: the connection is reset after so many bytes
    of the body. ``wait``: the server isn't asked before that is set.
    """

    matches: Matches
    times: int = 1 << 30
    skip: int = 0
    refuse: Refusal | None = None
    act: Callable[[], object] | None = None
    flip: int | None = None
    cut: int | None = None
    wait: threading.Event | None = None
    met: int = 0


def anything(_: Seen) -> bool:
    return True


def address_of(url: str) -> tuple[str, int]:
    """The ``target`` of a gate before the server there."""
    where = urlsplit(url)
    assert where.hostname
    assert where.port
    return where.hostname, where.port


@dataclass
class Gate:
    """``target`` is the server's (host, port); ``tls`` makes the gate https. ``guard`` may refuse
    any exchange, before all rules. ``route``: another server for some, as where files are had at
    a storage of their own."""

    target: tuple[str, int]
    tls: ssl.SSLContext | None = None
    guard: Callable[[Seen], Refusal | None] = lambda _: None
    route: Callable[[Seen], tuple[str, int] | None] = lambda _: None
    seen: list[Passage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closing = False
        self._listener = socket.create_server((LOOPBACK, free_ports(1)[0]), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if self.tls else 'http'}://{LOOPBACK}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    # --- for the test ----------------------------------------------------------------------

    def add(self, matches: Matches = anything, **what: Any) -> Rule:
        rule = Rule(matches, **what)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget rules and what was seen. Who waits goes on."""
        with self._lock:
            for rule in self._rules:
                if rule.wait is not None:
                    rule.wait.set()
            self._rules.clear()
            self.seen.clear()

    def busy(self, status: int, seconds: int, matches: Matches = anything) -> Rule:
        """``status`` with a Retry-After, from the first that matches on and for so long; the
        count of refusals is ``met``."""
        began: list[float] = []
        refuse = (status, {"Retry-After": str(seconds)}, b"")

        def is_busy(seen: Seen) -> bool:
            if not matches(seen):
                return False
            now = time.monotonic()
            began.append(now)
            return now - began[0] < seconds

        return self.add(is_busy, refuse=refuse)

    def passed(self, matches: Matches = anything) -> list[Passage]:
        with self._lock:
            return [each for each in self.seen if matches(each)]

    def close(self) -> None:
        self._closing = True
        self.clear()
        shut([self._listener])
        self._listener.close()
        with self._lock:
            shut(self._open)

    # --- the proxy -------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, address[1]), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: int) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))
            self._hold(stack, connection)
            connection.settimeout(60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._hold(stack, connection)
            head, rest = read_head(connection)
            # Else it is somebody else's client, who looks for a server that had this port before.
            if " HTTP/1." in head.partition("\r\n")[0]:
                self._exchange(stack, connection, head, rest, peer)

    def _hold(self, stack: contextlib.ExitStack, each: socket.socket) -> None:
        stack.enter_context(each)
        with self._lock:
            self._open.add(each)
        stack.callback(self._open.discard, each)

    def _exchange(
        self,
        stack: contextlib.ExitStack,
        connection: socket.socket,
        head: str,
        rest: bytes,
        peer: int,
    ) -> None:
        passage = Passage.of(head, peer)
        rules = self._note(passage)
        refusal = self.guard(passage)
        for rule in rules:
            refusal = refusal or rule.refuse
            if rule.act is not None:
                rule.act()
            if rule.wait is not None:
                rule.wait.wait(60)
        if self._closing:
            return
        if refusal is not None:
            _refuse(connection, passage, refusal)
            return
        server = socket.create_connection(self.route(passage) or self.target, timeout=60)
        self._hold(stack, server)
        server.sendall(_last_on_its_connection(head))
        length = int(passage.headers.get("content-length", "0"))
        if passage.headers.get("transfer-encoding"):
            # A body of unknown length: it is over when the client waits for the answer.
            threading.Thread(target=_pump, args=(connection, server), daemon=True).start()
        while length > len(rest):
            more = connection.recv(65536)
            if not more:
                return
            rest += more
        server.sendall(rest)
        _answer(connection, server, passage, rules)

    def _note(self, passage: Passage) -> list[Rule]:
        """The rules that are for this exchange, counted."""
        found = []
        with self._lock:
            self.seen.append(passage)
            for rule in self._rules:
                if rule.times <= 0 or not rule.matches(passage):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                rule.times -= 1
                rule.met += 1
                found.append(rule)
        return found


def _last_on_its_connection(head: str) -> bytes:
    kept = [line for line in head.split("\r\n") if not line.lower().startswith("connection:")]
    return "\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while more := source.recv(65536):
            sink.sendall(more)


def _refuse(connection: socket.socket, passage: Passage, refusal: Refusal) -> None:
    passage.status, headers, body = refusal
    told = {**headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {passage.status} Refused", *(f"{k}: {v}" for k, v in told.items()), "", ""]
    connection.sendall("\r\n".join(lines).encode() + (b"" if passage.method == "HEAD" else body))


def _answer(
    connection: socket.socket, server: socket.socket, passage: Passage, rules: list[Rule]
) -> None:
    """The server's answer as it is, but for the rules."""
    head, rest = read_head(server)
    if not head:
        return
    passage.status = int(head.split(" ")[1])
    connection.sendall(_last_on_its_connection(head))
    flips = [rule.flip for rule in rules if rule.flip is not None]
    cuts = [rule.cut for rule in rules if rule.cut is not None]
    piece = rest or server.recv(256 * 1024)
    while piece:
        at = passage.sent
        for flip in flips:
            if at <= flip < at + len(piece):
                wrong = bytearray(piece)
                wrong[flip - at] ^= 1
                piece = bytes(wrong)
        for cut in cuts:
            if at + len(piece) >= cut:
                connection.sendall(piece[: cut - at])
                reset_when_closed(connection)
                return
        # Before they leave: whoever has them all may look at once.
        passage.sent += len(piece)
        connection.sendall(piece)
        piece = server.recv(256 * 1024)
