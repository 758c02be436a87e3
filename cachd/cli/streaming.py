"""A file through the socket, resumed where the connection broke."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cachd.cli.client import path_of
from cachd.cli.manifest import lease_header
from cachd.cli.patience import Patience, is_passing
from cachd.errors import CachdError, Cancelled, SizeMismatch

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from cachd.cli.client import Client
    from cachd.cli.manifest import WantedFile

_BUFFER = 256 * 1024
_TIMEOUT = 60.0
"""Seconds without a byte from a local socket."""


class Streamer:
    """Reads files of the snapshot that ``answer`` names. Used by several threads."""

    def __init__(
        self,
        client: Client,
        answer: dict[str, Any],
        wait_daemon: float,
        stop: threading.Event,
    ) -> None:
        self._client = client
        self._answer = answer
        self._wait_daemon = wait_daemon
        self._stop = stop

    def fetch(self, file: WantedFile, target: int, tick: Callable[[int], None]) -> None:
        """Write ``file`` to the descriptor ``target``; ``tick`` gets the bytes of each step.

        Raises what the daemon says, SizeMismatch, Cancelled; an OSError is the target's.
        """
        patience = Patience(self._wait_daemon, self._stop)
        offset = 0
        while offset < file.size:
            try:
                for count in self._read(file, target, offset):
                    offset += count
                    tick(count)
                    patience.succeeded()
            except CachdError as error:
                if not is_passing(error):
                    raise
                patience.pause(error)

    def _read(self, file: WantedFile, target: int, offset: int) -> Iterator[int]:
        headers = lease_header(self._answer)
        if offset:
            headers["Range"] = f"bytes={offset}-"
        buffer = memoryview(bytearray(_BUFFER))
        with self._client.open(
            "GET",
            path_of("models", self._answer["key"], "files", file.path),
            query={"revision": self._answer["revision"]},
            headers=headers,
            timeout=_TIMEOUT,
        ) as body:
            length = body.header("Content-Length")
            if body.status != (206 if offset else 200) or length != str(file.size - offset):
                raise SizeMismatch(
                    f"the daemon offers {length or 'an unknown number of'} bytes of {file.path} "
                    f"from byte {offset} on, and the manifest says {file.size - offset}"
                )
            while count := body.readinto(buffer):
                if self._stop.is_set():
                    raise Cancelled("the transfer was stopped")
                write_all(target, buffer[:count])
                yield count


def write_all(fd: int, data: memoryview) -> None:
    """Write all of ``data``."""
    while data:
        data = data[os.write(fd, data) :]
