"""The daemon's ``files.sock``, as small as it can be, with switches for trouble."""

from __future__ import annotations

import array
import json
import os
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Trouble = Literal["", "problem", "size", "writable", "none", "closes", "nonsense", "directory"]


@dataclass
class FakeFiles:
    """Hands out files below ``tree``. ``closes`` ends each connection at its first request."""

    path: Path
    tree: Path
    trouble: Trouble = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self._open: list[socket.socket] = []

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in self._open:
            one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        self._listener.close()
        for one in self._open:
            one.close()
        self.path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        while data := sock.recv(65536):
            request = json.loads(data)
            self.requests.append(request)
            if self.trouble == "closes":
                sock.shutdown(socket.SHUT_RDWR)
                return
            self._answer(sock, self.tree / request["path"])

    def _answer(self, sock: socket.socket, path: Path) -> None:
        size = path.stat().st_size + (self.trouble == "size")
        if self.trouble == "problem":
            problem = {"code": "forbidden", "detail": "no", "status": 403}
            sock.send(json.dumps({"problem": problem}).encode())
            return
        flags = os.O_RDWR if self.trouble == "writable" else os.O_RDONLY
        opened = path.parent if self.trouble == "directory" else path
        fd = os.open(opened, flags)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            body = b"{" if self.trouble == "nonsense" else json.dumps({"size": size}).encode()
            sock.sendmsg([body], [] if self.trouble == "none" else rights)
        finally:
            os.close(fd)
