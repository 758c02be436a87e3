"""A small API server on loopback that knows tokens: TokenReview as v1 has it, and nothing else.

A fake, for a real one needs etcd and certificates; what a real one answers is in the Kubernetes API
reference (TokenReview v1).
"""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
OWN_TOKEN = "the-daemons-own-token-1414"


def make_token(
    subject: str,
    *,
    audience: str = "cachd",
    ends_in: float = 3600.0,
    mark: str = "secret-sign-2236",
) -> str:
    """A token that looks like a projected one; its signature is nobody's."""
    claims = {"aud": [audience], "exp": int(time.time() + ends_in), "sub": subject}
    parts = [{"alg": "RS256"}, claims, mark]
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    )


@dataclass
class TokenServer:
    """``statuses`` by token. ``is_down``: it answers 500. While ``gate`` is clear answers wait."""

    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)
    is_down: bool = False

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def environ(self, directory: Path) -> dict[str, str]:
        """Variables of a daemon that asks this server."""
        file = directory / "own-token"
        file.write_text(OWN_TOKEN + "\n")
        return {
            "CACHD_KUBERNETES_ENABLED": "true",
            "CACHD_KUBERNETES_SERVER": self.url,
            "CACHD_KUBERNETES_TOKEN_FILE": str(file),
        }

    def admit(
        self, namespace: str, account: str, *, pod: tuple[str, str] | None = None, **token: Any
    ) -> str:
        """A token of a service account that the server vouches for."""
        subject = f"system:serviceaccount:{namespace}:{account}"
        made = make_token(subject, mark=f"secret-sign-2236-{len(self.statuses)}", **token)
        extra = {}
        if pod is not None:
            extra = {
                "authentication.kubernetes.io/pod-name": [pod[0]],
                "authentication.kubernetes.io/pod-uid": [pod[1]],
            }
        self.statuses[made] = {
            "authenticated": True,
            "audiences": ["cachd"],
            "user": {"username": subject, "uid": "u", "groups": [], "extra": extra},
        }
        return made

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.seen.append(body)
        self.gate.wait(20)
        status, answer = 201, {"kind": "TokenReview", "status": self._status(body)}
        if self.is_down:
            status, answer = 500, {"kind": "Status", "message": "etcd is away"}
        elif handler.headers.get("Authorization") != f"Bearer {OWN_TOKEN}":
            status, answer = 401, {"kind": "Status", "message": "Unauthorized"}
        elif handler.path != PATH:
            status, answer = 404, {"kind": "Status", "message": "no such path"}
        data = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _status(self, body: dict[str, Any]) -> dict[str, Any]:
        refused = {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        found = self.statuses.get(body["spec"]["token"], refused)
        wanted = set(body["spec"].get("audiences") or [])
        if found.get("authenticated") and "audiences" in found:
            both = sorted(wanted & set(found["audiences"]))
            return {**found, "audiences": both} if both else refused
        return found
