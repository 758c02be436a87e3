"""A small API server on loopback that knows tokens: TokenReview as v1 has it, and nothing else.

A fake, for a real one needs etcd and certificates; what a real one answers is in the Kubernetes API
reference (TokenReview v1).
"""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

from tests.kube.jsonserver import JsonServer

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"


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


class TokenServer(JsonServer):
    """``statuses`` by token; ``seen``: what was asked. While ``gate`` is clear answers wait."""

    def __init__(self) -> None:
        self.statuses: dict[str, dict[str, Any]] = {}
        self.seen: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        super().__init__()

    def close(self) -> None:
        self.gate.set()
        super().close()

    def environ(self, directory: Path) -> dict[str, str]:
        """Variables of a daemon that asks this server."""
        return {f"CACHD_{name}": value for name, value in self.settings(directory).items()}

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

    def note(self, method: str, path: str, body: dict[str, Any]) -> None:
        self.seen.append(body)
        self.gate.wait(60)

    def act(
        self, method: str, path: str, body: dict[str, Any], kind: str
    ) -> tuple[int, dict[str, Any]]:
        if (method, path) != ("POST", PATH):
            return 404, {"kind": "Status", "message": "no such path"}
        return 201, {"kind": "TokenReview", "status": self._status(body)}

    def _status(self, body: dict[str, Any]) -> dict[str, Any]:
        refused = {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        found = self.statuses.get(body["spec"]["token"], refused)
        wanted = set(body["spec"].get("audiences") or [])
        if found.get("authenticated") and "audiences" in found:
            both = sorted(wanted & set(found["audiences"]))
            return {**found, "audiences": both} if both else refused
        return found
