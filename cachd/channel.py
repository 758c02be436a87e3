"""Messages between the daemon and its child processes: length-prefixed JSON over a socket pair.

Credentials travel here, in memory, and nowhere else. A child ends when its channel closes, so that
none outlives a daemon that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_LENGTH = struct.Struct("!I")
MAX_MESSAGE = 512 * 1024 * 1024

DECODE_HERE = 256 * 1024
"""Bytes of a message up to which the event loop decodes it; a thread does with longer ones."""

Message = dict[str, Any]


def _encode(message: Message) -> bytes:
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogateescape"
    )
    return _LENGTH.pack(len(body)) + body


def _decode(body: bytes) -> Message:
    message: Message = json.loads(body.decode("utf-8", "surrogateescape"))
    return message


class ChildChannel:
    """The child's end: blocking, may be used by several threads."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)
        self._file = self._socket.makefile("rb", buffering=256 * 1024)
        self._lock = threading.Lock()

    @staticmethod
    def from_arguments() -> ChildChannel:
        """The channel whose descriptor the daemon named as the first argument."""
        return ChildChannel(int(sys.argv[1]))

    def receive(self) -> Message | None:
        """The next message; None when the daemon is gone."""
        try:
            head = self._file.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            (length,) = _LENGTH.unpack(head)
            body = self._file.read(length)
        except OSError:
            return None
        return _decode(body) if len(body) == length else None

    def send(self, *messages: Message) -> None:
        """Send in one system call. A daemon that is gone ends this process."""
        data = b"".join(map(_encode, messages))
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            os._exit(0)


class ChildStreams:
    """The child's end for a child that runs an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def from_arguments() -> ChildStreams:
        """The channel whose descriptor the daemon named as the first argument."""
        import asyncio  # noqa: PLC0415  (a worker is smaller without it)

        ours = socket.socket(fileno=int(sys.argv[1]))
        reader, writer = await asyncio.open_connection(sock=ours, limit=1024 * 1024)
        return ChildStreams(reader, writer)

    async def receive(self) -> Message | None:
        """The next message; None when the daemon is gone."""
        return await _receive(self._reader)

    async def send(self, message: Message) -> None:
        self._writer.write(_encode(message))
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def _receive(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None when the other end is gone or sends nonsense."""
    try:
        head = await reader.readexactly(_LENGTH.size)
        (length,) = _LENGTH.unpack(head)
        if length > MAX_MESSAGE:
            return None
        body = await reader.readexactly(length)
    except (EOFError, ConnectionError):  # asyncio's IncompleteReadError is an EOFError
        return None
    if length > DECODE_HERE:
        import asyncio  # noqa: PLC0415  (a worker is smaller without it)

        return await asyncio.to_thread(_decode, body)
    return _decode(body)


class Child:
    """The daemon's end: a child process and its channel."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer

    @property
    def pid(self) -> int:
        return self.process.pid

    @staticmethod
    async def spawn(module: str, *, environ: dict[str, str] | None = None) -> Child:
        """Start ``python -m module FD`` with one end of a socket pair as FD.

        The child gets no signals of the daemon's terminal; its standard error is the daemon's.
        """
        import asyncio  # noqa: PLC0415  (a worker, the other end, is smaller without it)

        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environ,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=1024 * 1024)
        return Child(process, reader, writer)

    def send(self, *messages: Message) -> None:
        """Queue messages; a child that is gone shows at ``receive``."""
        self._writer.write(b"".join(map(_encode, messages)))

    async def drain(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message; None when the child is gone."""
        return await _receive(self._reader)

    async def stop(self, patience: float = 2.0) -> None:
        """Close the channel, which ends the child; kill it after ``patience`` seconds."""
        import asyncio  # noqa: PLC0415  (a worker, the other end, is smaller without it)

        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        try:
            await asyncio.wait_for(self.process.wait(), patience)
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
