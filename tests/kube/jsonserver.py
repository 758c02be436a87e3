"""What the small fakes of an API server share: HTTP on loopback, one token, answers of JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from tests.servers.loopback import Handler, Server

OWN_TOKEN = "the-daemons-own-token-2718"


class JsonServer(ABC):
    """``is_down``: it answers 500. A kind of server says in ``act`` what it does."""

    def __init__(self) -> None:
        self.is_down = False
        server = self

        class JsonHandler(Handler):
            def do_GET(self) -> None:
                server._answer(self)

            do_POST = do_PATCH = do_GET

        self._server = Server(JsonHandler)
        self.url = self._server.url

    @abstractmethod
    def act(
        self, method: str, path: str, body: dict[str, Any], kind: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and object for a request; ``kind``: its content type. In several threads."""

    @abstractmethod
    def note(self, method: str, path: str, body: dict[str, Any]) -> None:
        """A request came, whatever becomes of it."""

    def close(self) -> None:
        self._server.stop()

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

    def _answer(self, handler: Handler) -> None:
        body = json.loads(handler.read_body() or b"{}")
        self.note(handler.command, handler.path, body)
        if self.is_down:
            status, answer = 500, {"kind": "Status", "message": "etcd is away"}
        elif handler.headers.get("Authorization") != f"Bearer {OWN_TOKEN}":
            status, answer = 401, {"kind": "Status", "message": "Unauthorized"}
        else:
            kind = handler.headers.get("Content-Type", "")
            status, answer = self.act(handler.command, handler.path, body, kind)
        handler.send(status, json.dumps(answer).encode(), Content_Type="application/json")
