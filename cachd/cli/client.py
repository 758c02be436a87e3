"""HTTP over a Unix socket: a connection a call, every wait bounded, every failure a CachdError."""

from __future__ import annotations

import http.client
import json
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from cachd import __version__
from cachd.cli.problems import connection_errors, problem_to_error, read_problem
from cachd.errors import DaemonUnreachable, InternalError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from pathlib import Path

CONNECT_TIMEOUT = 5.0
"""Seconds; a listening socket of this machine answers at once, or its backlog is full."""

ANSWER_TIMEOUT = 120.0
"""Seconds without a byte, for calls that don't wait for a fetch."""

MAX_ANSWER = 256 * 1024 * 1024
"""Bytes of one JSON answer; a hundred thousand models are about 60 MiB."""

FILES_SOCKET = "files.sock"
"""Beside the pods' socket; gives descriptors."""

_SUN_PATH = 107


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("cachd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            connect(sock, self._path)
            sock.settimeout(self.timeout)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def connect(sock: socket.socket, path: Path) -> None:
    """Connect to a Unix socket, however long its path is."""
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

    def __init__(self, response: http.client.HTTPResponse, where: str) -> None:
        self._response = response
        self._where = where
        self.status = response.status

    def header(self, name: str) -> str:
        return self._response.getheader(name) or ""

    def read(self, count: int = -1) -> bytes:
        with connection_errors(self._where):
            data = self._response.read(None if count < 0 else count)
            if not data and count:
                self._check_end()
            return data

    def readinto(self, buffer: memoryview) -> int:
        """As many bytes as one read gives; 0 at the end. A body cut short is an error."""
        with connection_errors(self._where):
            count = self._response.readinto(buffer)
            if count == 0:
                self._check_end()
            return count

    def readline(self) -> bytes:
        with connection_errors(self._where):
            return self._response.readline()

    def read_all(self) -> bytes:
        """The whole body, of at most MAX_ANSWER bytes."""
        data = self.read(MAX_ANSWER + 1)
        if len(data) > MAX_ANSWER:
            raise InternalError(
                f"the daemon at {self._where} sent an answer of more than {MAX_ANSWER} bytes"
            )
        return data

    def read_object(self) -> dict[str, Any]:
        """The whole body as a JSON object; an empty one is ``{}``."""
        return _object(self.read_all())

    def _check_end(self) -> None:
        if self._response.length:  # http.client tells of a short body in some calls only.
            raise http.client.IncompleteRead(b"", self._response.length)


class Client:
    """Calls to the daemon behind one socket.

    Every method raises DaemonUnreachable (``detail["reason"]``: absent, refused, permission, lost,
    silent), or the error that the daemon's problem+json describes.
    """

    def __init__(
        self, path: Path, *, timeout: float = ANSWER_TIMEOUT, token_file: Path | None = None
    ) -> None:
        """``token_file``: says which service account asks; sent where the file is there."""
        self.where = str(path)
        self.timeout = timeout
        self.files_socket: Path | None = path.with_name(FILES_SOCKET)
        self._path = path
        self._token_file = token_file

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
            return answer.read_object()

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
        connection = self._connection(timeout or self.timeout)
        response: http.client.HTTPResponse | None = None
        sent = dict(headers or {})
        if token := self.token():
            sent["Authorization"] = f"Bearer {token}"
        try:
            with connection_errors(self.where):
                response = _send(connection, method, _target(target, query), body, chunks, sent)
            if response.status >= 400:
                raise read_problem(response, self.where)
            yield Answer(response, self.where)
        finally:
            if response is not None:
                response.close()
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        return _UnixConnection(self._path, timeout)

    def token(self) -> str:
        """Empty where there is none. Read anew for each call: kubelet replaces the file long before
        the token ends."""
        if self._token_file is None:
            return ""
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return token if token.isprintable() else ""

    def events(
        self, target: str, body: object, *, timeout: float | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """The NDJSON events of a POST, to the last. An ``error`` event is raised.

        A stream that ends before ``ready`` or ``error`` raises DaemonUnreachable (lost).
        """
        headers = {"Accept": "application/x-ndjson"}
        with self.open("POST", target, body, headers=headers, timeout=timeout) as answer:
            if "ndjson" not in answer.header("Content-Type"):
                yield {"event": "ready", **answer.read_object()}
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
            f"the daemon at {self.where} ended its answer in the middle",
            hint="it may be restarting; ask again",
            reason="lost",
        )


def path_of(*segments: str) -> str:
    """A request path under ``/v1``; slashes within a segment stay (file paths)."""
    return "/v1/" + "/".join(quote(segment, safe="/") for segment in segments)


def _target(target: str, query: Mapping[str, object] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{target}?{urlencode(given)}" if given else target


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: object,
    chunks: Iterable[bytes] | None,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    sent = {
        "Accept": "application/json",
        "User-Agent": f"cachd/{__version__}",
        "Connection": "close",
        **headers,
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
