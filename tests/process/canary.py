"""Who answers at forbidden addresses and at allowed ones, for ``test_egress``: port 80 everywhere
writes down who called; port 8080 serves models, and says what ``answers.json`` says."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BODY = b"model" * 1000


def main(directory: Path) -> None:
    lock = threading.Lock()

    def note(name: str, line: str) -> None:
        with lock, (directory / name).open("a") as file:
            file.write(line + "\n")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self) -> None:
            what = f"{self.command} {self.path}"
            here = self.connection.getsockname()[0].removeprefix("::ffff:")
            note("served" if self.server.server_address[1] == 8080 else "calls", f"{here} {what}")
            says = json.loads((directory / "answers.json").read_text()).get(what)
            if isinstance(says, str):
                self.send_response(302)
                self.send_header("Location", says)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if says:
                Path("/etc/hosts").write_text(says["hosts"])
            span = self.headers.get("Range")
            start, end = 0, len(BODY) - 1
            if span:
                first, _, last = span.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or end), end)
            part = BODY[start : end + 1]
            self.send_response(206 if span else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("ETag", '"e"')
            self.send_header("Accept-Ranges", "bytes")
            if span:
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(BODY)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(part)

    for name in ("calls", "served"):
        (directory / name).touch()
    for port in (80, 8080):
        server = _Dual(("::", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    (directory / "ready").touch()
    while not (directory / "stop").exists():
        time.sleep(0.1)


class _Dual(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
