"""An HTTP/1.1 origin that misbehaves as told: real sockets, one thread a connection, optional TLS.

with FaultOrigin() as origin:
    origin.put("/m/a.bin", data)
    origin.fault("/m/a.bin", Fault("reset", after=1000), times=2)
    ... origin.url("/m/a.bin") ...
    assert origin.requests("/m/a.bin") == 3
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate

from tests.origins.exchange import Body, Seen
from tests.origins.sockets import read_head, reset_when_closed, shut
from tests.servers.ports import free_ports

KINDS = frozenset(
    {
        "reset",  # RST after ``after`` body bytes
        "close",  # FIN after ``after`` body bytes: a short body
        "stall",  # silence after ``after`` body bytes, until the origin is closed or ``seconds``
        "drip",  # ``chunk`` bytes every ``seconds``
        "silent",  # no answer at all
        "extra",  # more bytes after the body than announced
        "long",  # Content-Length larger than the range by one, with the byte
        "flip",  # one wrong byte at ``after``
        "ignore_range",  # 200 and the whole body to a range
        "wrong_start",  # Content-Range one off, with those bytes
        "wrong_total",
        "etag",  # another ETag, whatever If-Match said
        "weak_etag",
        "no_etag",
        "status",  # ``status``, ``headers``, ``body``
        "gzip",  # Content-Encoding: gzip announced
        "chunked",
        "no_length",  # the body ends with the connection
        "garbage",  # no HTTP
        "redirect",  # ``status`` to ``location``
    }
)


def s3_error(code: str, message: str = "") -> bytes:
    """The XML body of an S3 error."""
    return (
        f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    ).encode()


@dataclass
class Fault:
    """``after`` in body bytes, ``seconds`` between drips or of a stall."""

    kind: str
    after: int = 0
    seconds: float = 0.05
    chunk: int = 1024
    status: int = 302
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    location: str = ""

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


class FaultOrigin:
    """``context`` makes it https. ``busy_heads``: how many HEADs are yet refused."""

    def __init__(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._context = context
        self.host = host
        self.name = "localhost" if context else host
        self._bodies: dict[str, Body] = {}
        self._faults: dict[str, list[tuple[Fault, int]]] = {}
        self._lock = threading.Lock()
        self.seen: list[Seen] = []
        self.sent: Counter[str] = Counter()
        self.open_now = 0
        self.open_most = 0
        self.hold: threading.Event | None = None
        self.busy_heads = 0
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server((host, free_ports(1)[0]), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    # --- for the test ----------------------------------------------------------------------

    def __enter__(self) -> FaultOrigin:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closing.set()
        if self.hold is not None:
            self.hold.set()
        shut([self._listener])
        self._listener.close()
        self.drop_connections()
        self._acceptor.join(5)
        for thread in self._threads:
            thread.join(5)

    @property
    def base(self) -> str:
        return f"{'https' if self._context else 'http'}://{self.name}:{self.port}"

    def url(self, path: str) -> str:
        return self.base + path

    def put(self, path: str, data: bytes, *, etag: str | None = "", **headers: str) -> Body:
        """Serve ``data`` at ``path``; ``etag`` "" makes one up, None sends none."""
        if etag == "":
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}-v"'
        body = Body(data, etag, {k.replace("_", "-"): v for k, v in headers.items()})
        with self._lock:
            self._bodies[path] = body
        return body

    def fault(self, path: str, fault: Fault, times: int = 1 << 30, skip: int = 0) -> None:
        """Misbehave ``times`` times at ``path`` ("*" for any), after ``skip`` good answers."""
        with self._lock:
            queue = self._faults.setdefault(path, [])
            if skip:
                queue.append((Fault("status", status=0), skip))
            queue.append((fault, times))

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    def requests(self, path: str | None = None, method: str = "GET") -> int:
        with self._lock:
            return sum(
                1
                for seen in self.seen
                if (path is None or seen.path == path) and seen.method == method
            )

    def bytes_sent(self, path: str | None = None) -> int:
        """Body bytes that left, as far as the kernel took them."""
        with self._lock:
            return sum(self.sent.values()) if path is None else self.sent[path]

    def drop_connections(self) -> None:
        """Reset all that are open."""
        with self._lock:
            connections = list(self._connections)
        shut(connections)

    # --- the server ------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(connection, address[1]), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, peer: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(connection)
            self.open_now += 1
            self.open_most = max(self.open_most, self.open_now)
        raw = connection
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._connections.discard(raw)
                    self._connections.add(connection)
            buffer = b""
            while not self._closing.is_set():
                head, buffer = read_head(connection, buffer)
                if " HTTP/1." not in head.partition("\r\n")[0]:
                    # It ended, or is somebody else's, who looks for what had this port before.
                    return
                is_last = "\r\nconnection: close" in head.lower()
                if not self._answer(connection, head, peer) or is_last:
                    return
        except (OSError, ssl.SSLError):
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
                self._connections.discard(raw)
                self.open_now -= 1
            with contextlib.suppress(OSError):
                connection.close()

    def _next_fault(self, path: str) -> Fault | None:
        with self._lock:
            for name in (path, "*"):
                queue = self._faults.get(name)
                if queue:
                    fault, times = queue[0]
                    if times <= 1:
                        queue.pop(0)
                    else:
                        queue[0] = (fault, times - 1)
                    return None if fault.kind == "status" and fault.status == 0 else fault
        return None

    def _answer(self, connection: socket.socket, head: str, peer: int) -> bool:
        """Answer one request; whether the connection stays open."""
        seen = Seen.of(head, peer)
        method, path, headers = seen.method, seen.path, seen.headers
        with self._lock:
            self.seen.append(seen)
        if self.hold is not None:
            self.hold.wait(30)
        fault = self._next_fault(path) if method in ("GET", "POST") else None
        body = self._bodies.get(path)
        kind = fault.kind if fault else ""
        if fault is not None and kind == "silent":
            self._closing.wait(60)
            return False
        if fault is not None and kind == "garbage":
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n" * 3)
            return False
        if fault is not None and kind in ("status", "redirect"):
            more = dict(fault.headers)
            if fault.location:
                more["Location"] = fault.location
            self._send_head(connection, fault.status, more, len(fault.body))
            connection.sendall(fault.body)
            return True
        if body is None:
            data = s3_error("NoSuchKey")
            self._send_head(connection, 404, {}, len(data))
            connection.sendall(b"" if method == "HEAD" else data)
            return True
        if body.check_if_match and "if-match" in headers and headers["if-match"] != body.etag:
            data = s3_error("PreconditionFailed")
            self._send_head(connection, 412, {}, len(data))
            connection.sendall(data)
            return True
        if method == "HEAD" and self.busy_heads:
            self.busy_heads -= 1
            self._send_head(connection, 503, {}, 0)
            return True
        number = seen.target.rpartition("partNumber=")[2]
        if method == "HEAD" and body.parts and number.isdigit():
            size = body.parts[int(number) - 1]
            told = {"ETag": body.etag or "", "x-amz-mp-parts-count": str(len(body.parts))}
            self._send_head(connection, 206, told, size)
            return True
        return self._send_body(connection, method, path, body, headers.get("range"), fault)

    def _send_body(
        self,
        connection: socket.socket,
        method: str,
        path: str,
        body: Body,
        wanted: str | None,
        fault: Fault | None,
    ) -> bool:
        kind = fault.kind if fault else ""
        after = fault.after if fault else 0
        size = len(body.data)
        start, end, status = 0, size, 200
        headers: dict[str, str] = {"Last-Modified": body.modified, **body.headers}
        if wanted and kind != "ignore_range" and method == "GET":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last) + 1, size), 206
            shown = start
            if kind == "wrong_start":
                start, end, shown = start + 1, min(end + 1, size), start + 1
            total = size + 1 if kind == "wrong_total" else size
            headers["Content-Range"] = f"bytes {shown}-{end - 1}/{total}"
        data = body.data[start:end]
        etag = body.etag
        if kind == "etag":
            etag = '"another"'
        elif kind == "weak_etag":
            etag = f"W/{etag}"
        elif kind == "no_etag":
            etag = None
        if etag is not None:
            headers["ETag"] = etag
        if kind == "gzip":
            headers["Content-Encoding"] = "gzip"
        if kind == "flip":
            data = data[:after] + bytes([data[after] ^ 1]) + data[after + 1 :]
        if kind in ("extra", "long"):
            data += b"!"
        length: int | None = len(data) - (1 if kind == "extra" else 0)
        if kind == "chunked":
            headers["Transfer-Encoding"] = "chunked"
            length = None
        elif kind == "no_length":
            headers["Connection"] = "close"
            length = None
        self._send_head(connection, status, headers, length)
        if method == "HEAD":
            return True
        if kind == "chunked":
            for i in range(0, len(data), 50_000):
                piece = data[i : i + 50_000]
                connection.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
            self._count(path, len(data))
            connection.sendall(b"0\r\n\r\n")
            return True
        if fault is not None and kind in ("reset", "close", "stall"):
            data = data[:after]
        if fault is not None and kind == "drip":
            for i in range(0, len(data), fault.chunk):
                if self._closing.wait(fault.seconds):
                    return False
                self._send(connection, path, data[i : i + fault.chunk])
            return True
        view = memoryview(data)
        while view:
            self._send(connection, path, view[: 256 * 1024])
            view = view[256 * 1024 :]
        if kind == "reset":
            reset_when_closed(connection)
            return False
        if kind == "stall":
            self._closing.wait(fault.seconds if fault and fault.seconds > 1 else 60)
            return False
        return kind not in ("close", "no_length")

    def _send(self, connection: socket.socket, path: str, piece: bytes | memoryview) -> None:
        """Counted before it leaves, for whoever has it all may look at once; what can't leave is
        not."""
        self._count(path, len(piece))
        try:
            connection.sendall(piece)
        except OSError:
            self._count(path, -len(piece))
            raise

    def _count(self, path: str, count: int) -> None:
        with self._lock:
            self.sent[path] += count

    @staticmethod
    def _send_head(
        connection: socket.socket, status: int, headers: dict[str, str], length: int | None
    ) -> None:
        lines = [f"HTTP/1.1 {status} Status", f"Date: {formatdate(usegmt=True)}"]
        if "Date" in headers:
            lines.pop()
        if length is not None:
            lines.append(f"Content-Length: {length}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


def pattern(size: int, seed: int = 0) -> bytes:
    """``size`` bytes that differ everywhere, the same for the same ``seed``."""
    return hashlib.shake_128(str(seed).encode()).digest(size)
