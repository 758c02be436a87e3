"""HTTP over a Unix socket: one connection a call, every wait bounded, every failure a CachdError."""

from __future__ import annotations

import http.client
import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from cachd import __version__
from cachd.errors import CachdError, DaemonUnreachable, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CONNECT_TIMEOUT = 5.0
"""Seconds; a listening socket of this machine answers at once, or its backlog is full."""

ANSWER_TIMEOUT = 120.0
"""Seconds without a byte, for calls that don't wait for a fetch."""

MAX_ANSWER = 256 * 1024 * 1024
"""Bytes of one JSON answer; a hundred thousand models are about 60 MiB."""

_SUN_PATH = 107


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("cachd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            _connect(sock, self._path)
            sock.settimeout(self.timeout)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _connect(sock: socket.socket, path: Path) -> None:
    if len(os.fsencode(path)) <= _SUN_PATH:
        sock.connect(str(path))
        return
    # A sun_path holds 107 bytes; the directory's descriptor names a deeper one.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


class Answer:
    """A successful answer whose body is being read; what breaks under it is a CachdError."""

    def __init__(self, response: http.client.HTTPResponse, path: Path) -> None:
        self._response = response
        self._path = path
        self.status = response.status

    def header(self, name: str) -> str:
        return self._response.getheader(name) or ""

    def read(self, count: int = -1) -> bytes:
        with _translated(self._path):
            return self._response.read(None if count < 0 else count)

    def readinto(self, buffer: memoryview) -> int:
        """As many bytes as one read gives; 0 at the end. A body cut short is an error."""
        with _translated(self._path):
            count = self._response.readinto(buffer)
            if count == 0 and self._response.length:
                raise http.client.IncompleteRead(b"", self._response.length)
            return count

    def readline(self) -> bytes:
        with _translated(self._path):
            return self._response.readline()

    def read_all(self) -> bytes:
        """The whole body, of at most MAX_ANSWER bytes."""
        data = self.read(MAX_ANSWER + 1)
        if len(data) > MAX_ANSWER:
            raise InternalError(
                f"the daemon at {self._path} sent an answer of more than {MAX_ANSWER} bytes"
            )
        return data


class Client:
    """Calls to the daemon behind one socket.

    Every method raises DaemonUnreachable (``detail["reason"]``: absent, refused, permission, lost,
    silent), or the error that the daemon's problem+json describes.
    """

    def __init__(self, path: Path, *, timeout: float = ANSWER_TIMEOUT) -> None:
        self.path = path
        self.timeout = timeout

    def call(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """One call with a JSON answer; an empty answer is ``{}``."""
        with self.open(
            method, target, body, query=query, headers=headers, timeout=timeout
        ) as answer:
            return _object(answer.read_all())

    @contextmanager
    def open(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        chunks: Iterable[bytes] | None = None,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Iterator[Answer]:
        """An answer to be read by the caller. ``body`` is sent as JSON, ``chunks`` as they are.

        ``timeout`` in seconds bounds each wait for bytes, not the whole.
        """
        connection = _UnixConnection(self.path, timeout or self.timeout)
        try:
            with _translated(self.path):
                response = _send(connection, method, _target(target, query), body, chunks, headers)
            if response.status >= 400:
                raise _problem(response, self.path)
            yield Answer(response, self.path)
        finally:
            connection.close()

    def events(
        self, target: str, body: object, *, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """The NDJSON events of a POST, to the last. An ``error`` event is raised.

        A stream that ends before ``ready`` or ``error`` raises DaemonUnreachable (lost).
        """
        headers = {"Accept": "application/x-ndjson"}
        with self.open("POST", target, body, headers=headers, timeout=timeout) as answer:
            if "ndjson" not in answer.header("Content-Type"):
                yield {"event": "ready", **_object(answer.read_all())}
                return
            while line := answer.readline():
                if not line.endswith(b"\n"):
                    break
                event = _object(line)
                if event.get("event") == "error":
                    raise problem_to_error(event)
                yield event
                if event.get("event") == "ready":
                    return
        raise DaemonUnreachable(
            f"the daemon at {self.path} ended its answer in the middle",
            hint="it may be restarting; ask again",
            reason="lost",
        )


def path_of(*segments: str) -> str:
    """A request path under ``/v1``; slashes within a segment stay (file paths)."""
    return "/v1/" + "/".join(quote(segment, safe="/") for segment in segments)


def problem_to_error(problem: Mapping[str, Any]) -> CachdError:
    """The error that a problem+json object describes, its further facts as ``detail``."""
    known = {"type", "title", "status", "detail", "code", "field", "hint", "retry_after", "event"}
    return CachdError.from_wire(
        {
            "code": problem.get("code"),
            "message": problem.get("detail") or problem.get("title") or "the daemon refused",
            "hint": problem.get("hint"),
            "field": problem.get("field"),
            "retry_after": problem.get("retry_after"),
            "detail": {name: value for name, value in problem.items() if name not in known},
        }
    )


def _target(target: str, query: Mapping[str, object] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{target}?{urlencode(given)}" if given else target


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: object,
    chunks: Iterable[bytes] | None,
    headers: Mapping[str, str] | None,
) -> http.client.HTTPResponse:
    sent = {
        "Accept": "application/json",
        "User-Agent": f"cachd/{__version__}",
        "Connection": "close",
        **(headers or {}),
    }
    try:
        if chunks is not None:
            sent["Transfer-Encoding"] = "chunked"
            connection.request(method, target, chunks, sent, encode_chunked=True)
        elif body is not None:
            sent["Content-Type"] = "application/json"
            connection.request(method, target, json.dumps(body).encode(), sent)
        else:
            connection.request(method, target, None, sent)
    except (BrokenPipeError, ConnectionResetError):
        # A daemon that refuses an upload answers before it has read it all.
        if connection.sock is None:
            raise
    return connection.getresponse()


def _object(data: bytes) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InternalError(
            "what answers on the socket doesn't speak cachd's protocol",
            hint="check that --socket names cachd's socket, and that client and daemon agree "
            "(cachd version)",
        )
    return value


def _problem(response: http.client.HTTPResponse, path: Path) -> CachdError:
    with _translated(path):
        data = response.read(1024 * 1024)
    try:
        problem = json.loads(data)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return InternalError(
            f"the daemon at {path} answered {response.status} {response.reason}",
            hint="its log says more",
            status=response.status,
        )
    header = response.getheader("Retry-After") or ""
    if "retry_after" not in problem and header.isdigit():
        problem["retry_after"] = float(header)
    return problem_to_error(problem)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DaemonUnreachable(
            f"no daemon: there is no socket at {path}",
            hint="start it with `cachd serve`, or name its socket with --socket or CACHD_SOCKET",
            reason="absent",
        ) from error
    except ConnectionRefusedError as error:
        raise DaemonUnreachable(
            f"no daemon: nobody listens on {path}",
            hint="the daemon that made this socket has ended; start it with `cachd serve`",
            reason="refused",
        ) from error
    except PermissionError as error:
        raise DaemonUnreachable(
            f"uid {os.getuid()} may not open the socket {path}",
            hint="run as the daemon's user, or see listen.socket_mode and listen.socket_group; "
            "the administrators' socket is for the daemon's user alone",
            reason="permission",
        ) from error
    except TimeoutError as error:
        raise DaemonUnreachable(
            f"the daemon at {path} doesn't answer",
            hint="`cachd top` and the daemon's log tell what it is doing",
            reason="silent",
        ) from error
    except (ConnectionError, http.client.HTTPException, NotADirectoryError) as error:
        raise DaemonUnreachable(
            f"the connection to the daemon at {path} was lost ({type(error).__name__})",
            hint="it may be restarting; ask again",
            reason="lost",
        ) from error
