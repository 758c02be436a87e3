"""What the small fakes of an API server share: HTTP on loopback, one token, answers of JSON."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OWN_TOKEN = "the-daemons-own-token-2718"


class JsonServer(ABC):
    """``is_down``: it answers 500. A kind of server says in ``act`` what it does."""

    def __init__(self) -> None:
        self.is_down = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self)

            do_POST = do_PATCH = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @abstractmethod
    def act(
        self, method: str, path: str, body: dict[str, Any], kind: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and object for a request; ``kind``: its content type. In several threads."""

    @abstractmethod
    def note(self, method: str, path: str, body: dict[str, Any]) -> None:
        """A request came, whatever becomes of it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    def settings(self, directory: Path, **more: str) -> dict[str, str]:
        """Of a daemon that asks this server."""
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "own-token"
        file.write_text(OWN_TOKEN + "\n")
        return {
            "KUBERNETES_ENABLED": "true",
            "KUBERNETES_SERVER": self.url,
            "KUBERNETES_TOKEN_FILE": str(file),
            **more,
        }

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else {}
        self.note(handler.command, handler.path, body)
        if self.is_down:
            status, answer = 500, {"kind": "Status", "message": "etcd is away"}
        elif handler.headers.get("Authorization") != f"Bearer {OWN_TOKEN}":
            status, answer = 401, {"kind": "Status", "message": "Unauthorized"}
        else:
            kind = handler.headers.get("Content-Type", "")
            status, answer = self.act(handler.command, handler.path, body, kind)
        data = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
