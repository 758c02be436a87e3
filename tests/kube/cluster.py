"""A small API server on loopback with what a node needs of one: events, one node, TokenReview.

A fake, for a real one needs etcd and certificates. Paths, methods, status codes and the rules that
are checked here (an event's namespace is that of what it is about, or ``default``; merge patches
with null) are those of the Kubernetes API reference and "API Concepts".
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OWN_TOKEN = "the-daemons-own-token-2718"
NODE = "node-a"


@dataclass
class Cluster:
    """``events`` by name, in the order that they were created; ``labels`` of the one node.
    ``tokens``: (namespace, account, pod, uid). ``is_down``: it answers 500."""

    labels: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    is_down: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                cluster._answer(self)

            do_POST = do_PATCH = do_GET

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
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def settings(self, directory: Path, **more: str) -> dict[str, str]:
        """Of a daemon on the node."""
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "own-token"
        file.write_text(OWN_TOKEN + "\n")
        return {
            "KUBERNETES_ENABLED": "true",
            "KUBERNETES_SERVER": self.url,
            "KUBERNETES_TOKEN_FILE": str(file),
            "KUBERNETES_NODE_NAME": NODE,
            **more,
        }

    def of(self, reason: str) -> list[dict[str, Any]]:
        with self._lock:
            return [event for event in self.events.values() if event["reason"] == reason]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else {}
        with self._lock:
            self.calls.append((handler.command, handler.path))
            if self.is_down:
                status, answer = 500, {"kind": "Status", "message": "etcd is away"}
            elif handler.headers.get("Authorization") != f"Bearer {OWN_TOKEN}":
                status, answer = 401, {"kind": "Status", "message": "Unauthorized"}
            else:
                kind = handler.headers.get("Content-Type", "")
                status, answer = self._act(handler.command, handler.path, body, kind)
        data = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _act(
        self, method: str, path: str, body: dict[str, Any], kind: str
    ) -> tuple[int, dict[str, Any]]:
        parts = path.strip("/").split("/")
        if path == "/apis/authentication.k8s.io/v1/tokenreviews" and method == "POST":
            return 201, {"kind": "TokenReview", "status": self._review(body)}
        if path == f"/api/v1/nodes/{NODE}":
            if method == "PATCH":
                assert kind == "application/merge-patch+json", kind
                assert body.keys() == {"metadata"}
                assert body["metadata"].keys() == {"labels"}
                for name, value in body["metadata"]["labels"].items():
                    self.labels.pop(name, None)
                    if value is not None:
                        self.labels[name] = value
            return 200, {"kind": "Node", "metadata": {"name": NODE, "labels": dict(self.labels)}}
        if parts[:3] == ["api", "v1", "namespaces"] and parts[4:5] == ["events"]:
            return self._event(method, parts[3], parts[5:], body, kind)
        return 404, {"kind": "Status", "message": "no such path"}

    def _event(
        self, method: str, namespace: str, rest: list[str], body: dict[str, Any], kind: str
    ) -> tuple[int, dict[str, Any]]:
        if method == "POST" and not rest:
            about = body["involvedObject"]
            if namespace != (about.get("namespace") or "default"):
                message = "involvedObject.namespace: does not match event.namespace"
                return 422, {"kind": "Status", "message": message}
            name = f"{body['metadata']['generateName']}{len(self.events)}"
            body["metadata"]["name"] = name
            self.events[name] = body
            return 201, body
        if method == "PATCH" and rest and rest[0] in self.events:
            assert kind == "application/merge-patch+json", kind
            self.events[rest[0]].update(body)
            return 200, self.events[rest[0]]
        return 404, {"kind": "Status", "message": "not found"}

    def _review(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self.tokens.get(body["spec"]["token"])
        if found is None:
            return {"user": {}, "error": "invalid bearer token"}
        namespace, account, pod, uid = found
        extra = {
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": [uid],
        }
        user = {"username": f"system:serviceaccount:{namespace}:{account}", "extra": extra}
        return {"authenticated": True, "audiences": ["cachd"], "user": user}
