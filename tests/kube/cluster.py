"""A small API server on loopback with what a node needs of one: events, one node, TokenReview.

A fake, for a real one needs etcd and certificates. Paths, methods, status codes and the rules that
are checked here (an event's namespace is that of what it is about, or ``default``; merge patches
with null) are those of the Kubernetes API reference and "API Concepts".
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.kube.jsonserver import JsonServer

NODE = "node-a"


class Cluster(JsonServer):
    """``events`` by name, in the order that they were created; ``labels`` of the one node.
    ``tokens``: (namespace, account, pod, uid)."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self.tokens: dict[str, tuple[str, str, str, str]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        super().__init__()

    def settings(self, directory: Path, **more: str) -> dict[str, str]:
        """Of a daemon on the node."""
        return super().settings(directory, KUBERNETES_NODE_NAME=NODE, **more)

    def of(self, reason: str) -> list[dict[str, Any]]:
        with self._lock:
            return [event for event in self.events.values() if event["reason"] == reason]

    def note(self, method: str, path: str, body: dict[str, Any]) -> None:
        with self._lock:
            self.calls.append((method, path))

    def act(
        self, method: str, path: str, body: dict[str, Any], kind: str
    ) -> tuple[int, dict[str, Any]]:
        with self._lock:
            return self._act(method, path, body, kind)

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
