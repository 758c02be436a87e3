"""What a daemon tells while something happens, and what its commands say."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tests.harness import Daemon, UnixConnection


@contextlib.contextmanager
def followed(daemon: Daemon) -> Iterator[list[dict[str, Any]]]:
    """What happens meanwhile."""
    seen: list[dict[str, Any]] = []
    connection = UnixConnection(daemon.admin_socket)
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    json.loads(response.readline())

    def read() -> None:
        while line := response.readline():
            seen.append(json.loads(line))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        connection.sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        response.close()
        connection.close()


def cachd(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cachd", *arguments],
        env=daemon.variables(),
        capture_output=True,
        text=True,
        timeout=60,
    )
