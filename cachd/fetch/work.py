"""What a worker process knows of one job, and what a part's request may use of it."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from cachd.errors import CachdError, Cancelled
from cachd.fetch.sigv4 import Signer
from cachd.fetch.transport import shutdown_socket
from cachd.model import Auth

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from cachd.fetch.answer import Wanted
    from cachd.fetch.connect import Connector
    from cachd.fetch.rate import TokenBucket
    from cachd.fetch.transport import Transport

TIMEOUT_MOST = 3600.0
"""Seconds; the C library takes no arbitrary number."""

GROW_STEP = 64 * 1024 * 1024
"""Bytes asked for at once, where a size isn't known beforehand."""

_FILE_LOCKS = 61


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Times in seconds, rates in bytes per second."""

    connect_timeout: float
    stall_window: float
    stall_floor: float


class Locations:
    """Where redirects of one job's URLs ended; threads share it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str]] = {}

    def get(self, url: str, now: float) -> str | None:
        known = self._known.get(url)
        return known[1] if known is not None and known[0] > now else None

    def remember(self, url: str, location: str, until: float) -> None:
        self._known[url] = (until, location)

    def forget(self, url: str) -> None:
        self._known.pop(url, None)


class WorkerJob:
    """One job, shared by the threads that work on it.

    ``ask`` sends the daemon a request for more bytes and returns its number.
    """

    def __init__(self, message: dict[str, Any], ask: Callable[[str, int], int]) -> None:
        self.id = str(message["job"])
        self.tree = str(message["tree"])
        self.is_s3 = bool(message["s3"])
        self.takes_etags = bool(message["etags"])
        connect = message["connect"]
        self.verify = bool(connect["verify"])
        self.ca_pem = str(connect["ca_pem"] or "")
        self.client_pem = str(connect["client_pem"])
        self.connect_timeout: float | None = connect["connect_timeout"]
        self.read_timeout: float | None = connect["read_timeout"]
        self.locations = Locations()
        self._auth = Auth()
        self._signed: dict[str, tuple[str, list[tuple[str, str]]]] = {}
        self._signer: Signer | None = None
        self._clock_offset = float(message["clock_offset"])
        self.set_auth(message["auth"])
        self._ask = ask
        self._lock = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._transports: set[Transport] = set()
        self._writers = 0
        self._file_locks = tuple(threading.Lock() for _ in range(_FILE_LOCKS))
        self._grants: dict[int, CachdError | None] = {}
        self.is_cancelled = False

    def set_auth(self, data: dict[str, Any]) -> None:
        headers = tuple((n, v) for n, v in data["headers"])
        auth = Auth(**{**data, "headers": headers, "signed": ()})
        self._signed = {
            one["planned"]: (one["url"], [(n, v) for n, v in one["headers"]])
            for one in data["signed"]
        }
        signer = Signer(auth) if auth.kind == "sigv4" else None
        if signer is not None:
            signer.clock_offset = self._clock_offset
        self._auth, self._signer = auth, signer

    def set_clock(self, offset: float) -> None:
        self._clock_offset = offset
        if self._signer is not None:
            self._signer.clock_offset = offset

    def auth_headers(
        self, method: str, url: str, original: str, headers: Sequence[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """The pass for ``url``: never for another host than the plan's, and never in the clear
        where the plan's URL was https."""
        auth, signer = self._auth, self._signer
        place, own = self._signed.get(original, ("", []))
        if place:
            return own if urlsplit(url)[:2] == urlsplit(place)[:2] else []
        if auth.kind == "none":
            return []
        here, there = urlsplit(url), urlsplit(original)
        if here.scheme != there.scheme:
            return []
        if signer is not None:
            return signer.sign(method, url, headers) if here.netloc == there.netloc else []
        return list(auth.headers) if _is_host(auth.host, here) else []

    def place_of(self, planned: str) -> str:
        """Where a file of the plan is had now."""
        return self._signed.get(planned, (planned, []))[0]

    def with_query(self, url: str, original: str) -> str:
        """``url`` with what proves us in its query, at the host that it is meant for."""
        query = self._auth.query
        here, there = urlsplit(url), urlsplit(original)
        if not query or here.scheme != there.scheme or original in self._signed:
            return url
        if not _is_host(self._auth.host, here):
            return url
        return f"{url}{'&' if here.query else '?'}{query}"

    # --- cancelling ----------------------------------------------------------------------------

    def watch(self, sock: socket.socket) -> None:
        with self._lock:
            # One that failed, or that its TLS wrapper has replaced, has no descriptor any more.
            self._sockets = {one for one in self._sockets if one.fileno() >= 0}
            self._sockets.add(sock)
        if self.is_cancelled:
            raise _cancelled()

    def hold(self, transport: Transport) -> None:
        with self._lock:
            self._sockets.discard(transport.sock)
            self._transports.add(transport)
        if self.is_cancelled:
            self.release(transport)
            transport.close()
            raise _cancelled()

    def release(self, transport: Transport) -> None:
        with self._lock:
            self._transports.discard(transport)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[None]:
        """Raises Cancelled instead of letting anybody write after ``cancel`` has returned.

        One thread at a time for each file: the kernel's lock of the inode lets in no more, and
        those that wait for it spin, which was a fifth of the CPU time."""
        with self._file_locks[hash(path) % _FILE_LOCKS], self._go_on_writing():
            yield

    @contextlib.contextmanager
    def _go_on_writing(self) -> Iterator[None]:
        with self._lock:
            if self.is_cancelled:
                raise _cancelled()
            self._writers += 1
        try:
            yield
        finally:
            with self._lock:
                self._writers -= 1
                if self.is_cancelled:
                    self._lock.notify_all()

    def cancel(self, patience: float) -> bool:
        """Shut its connections, wait for writes under way; whether all ended in time (s)."""
        with self._lock:
            self.is_cancelled = True
            sockets, transports = list(self._sockets), list(self._transports)
            self._lock.notify_all()
        for sock in sockets:
            shutdown_socket(sock)
        for transport in transports:
            transport.shutdown()
        with self._lock:
            return self._lock.wait_for(lambda: self._writers == 0, patience)

    # --- more bytes ----------------------------------------------------------------------------

    def grow(self, count: int) -> None:
        """Wait until the daemon has reserved ``count`` more bytes, or raise what it says."""
        number = self._ask(self.id, count)
        with self._lock:
            self._lock.wait_for(lambda: self.is_cancelled or number in self._grants)
            if self.is_cancelled:
                raise _cancelled()
            error = self._grants.pop(number)
        if error is not None:
            raise error

    def grant(self, number: int, error: CachdError | None) -> None:
        with self._lock:
            self._grants[number] = error
            self._lock.notify_all()


class Work:
    """One part under way in one thread: the job, the process's means, and what was received."""

    def __init__(
        self,
        job: WorkerJob,
        connector: Connector,
        bucket: TokenBucket,
        settings: WorkerSettings,
        scratch: bytearray,
    ) -> None:
        self.job = job
        self.connector = connector
        self.bucket = bucket
        self.verify = job.verify
        self.ca_pem = job.ca_pem
        self.client_pem = job.client_pem
        self.locations = job.locations
        self.auth_headers = job.auth_headers
        self.place_of = job.place_of
        self.with_query = job.with_query
        self.connect_timeout = min(job.connect_timeout or settings.connect_timeout, TIMEOUT_MOST)
        self.stall_window = settings.stall_window
        self.stall_floor = settings.stall_floor
        self.head_patience = job.read_timeout or settings.stall_window
        self.received = 0
        self.started = time.monotonic()
        self._scratch = memoryview(scratch)
        self._granted = 0
        self.is_given_up = False
        self._socket: socket.socket | None = None
        self._transport: Transport | None = None

    # --- giving the connection back for somebody else --------------------------------------------

    def give_up(self) -> None:
        """Have the part end soon, as broken; what is in place stays. From another thread."""
        self.is_given_up = True
        sock, transport = self._socket, self._transport
        if sock is not None:
            shutdown_socket(sock)
        if transport is not None:
            transport.shutdown()

    def watch(self, sock: socket.socket) -> None:
        self._socket = sock
        self._go_on()
        self.job.watch(sock)

    def hold(self, transport: Transport) -> None:
        self._socket, self._transport = None, transport
        if self.is_given_up:
            transport.close()
        self._go_on()
        self.job.hold(transport)

    def release(self, transport: Transport) -> None:
        self._transport = None
        self.job.release(transport)

    def writing(self, path: str) -> contextlib.AbstractContextManager[None]:
        self._go_on()
        return self.job.writing(path)

    def _go_on(self) -> None:
        if self.is_given_up:
            raise Cancelled("another model's turn")

    def progress(self, count: int) -> None:
        self.received += count

    def scratch(self, count: int) -> memoryview:
        return self._scratch[: min(count, len(self._scratch))]

    def reserve(self, end: int, wanted: Wanted) -> None:
        """See that the first ``end`` bytes of a file of unknown size may be written."""
        if wanted.size is None and end > self._granted:
            more = max(GROW_STEP, end - self._granted)
            self.job.grow(more)
            self._granted += more


def _is_host(allowed: str, place: SplitResult) -> bool:
    """``allowed`` is a host, where the port is the scheme's own, or host and port."""
    host = (place.hostname or "").lower()
    default = 443 if place.scheme == "https" else 80
    port = place.port or default
    shown = f"[{host}]" if ":" in host else host
    names = {f"{shown}:{port}"} | ({host, shown} if port == default else set())
    return allowed.lower() in names


def _cancelled() -> Cancelled:
    return Cancelled("nobody wants this fetch any more")
