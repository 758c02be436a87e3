"""``model-registry://``: Kubeflow's, whose models are in a bucket. Both behind one gate, so that
every row holds for a name as for what it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.contract.adapter import Adapter, Pass, Place
from tests.contract.adapters import s3
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, Refusal
from tests.servers.modelregistry import API, ModelRegistry
from tests.servers.ports import LOOPBACK

GOOD, WRONG, DENIED = "registry-good-5772", "registry-wrong-6931", "registry-poor-1644"


class Kubeflow(Adapter):
    name = "kubeflow"
    lacks: ClassVar[Mapping[str, str]] = {
        "public": "the registry wants a token",
        "huge": "the listing is the bucket's",
        "hostile": "the listing is the bucket's",
    }

    def __init__(self, store: Adapter) -> None:
        super().__init__()
        assert store.gate is not None
        self._store = store
        self.gate: Gate = store.gate
        self._registry = ModelRegistry()
        self._registry.wants_token(GOOD)
        self._closing += [self._registry.close, store.close]
        address = (LOOPBACK, self._registry.port)
        self.gate.route = lambda seen: address if API.match(seen.path) else None
        self.gate.guard = self._guard
        self.options = {**store.options, "registry": self.gate.url}
        keys = store.passes["good"]
        self.passes = {
            "good": _pass(keys, GOOD),
            "wrong": _pass(keys, WRONG, "credentials_invalid"),
            "denied": _pass(keys, DENIED, "access_denied"),
            "none": Pass(codes=("credentials_missing",), says="no credentials"),
        }

    def _guard(self, seen: Seen) -> Refusal | None:
        is_denied = seen.headers.get("authorization") == f"Bearer {DENIED}"
        return (403, {}, b"{}") if is_denied else None

    def put(self, files: Mapping[str, bytes]) -> Place:
        return replace(self._store.put(files), adapter=self)

    def uri(self, place: Place, path: str) -> str:
        """The name is the artifact's URI, so that each has one of its own."""
        model = f"{place.name}/{path}".encode().hex()
        endpoint = f"endpoint={self.options['endpoint']}&defaultRegion=us-east-1"
        if model not in {each["name"] for each in self._registry.models.values()}:
            self._registry.add(model, "v1", f"{self._store.uri(place, path)}?{endpoint}")
        return f"model-registry://{model}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        self._store.change(place, path, body)

    def is_data(self, seen: Seen) -> bool:
        return not API.match(seen.path) and self._store.is_data(seen)

    def holds(self, path: str) -> bool:
        return self._store.holds(path)

    def can_say(self, path: str) -> bool:
        return self._store.can_say(path)


def _pass(keys: Pass, token: str, *codes: str) -> Pass:
    credentials: dict[str, Any] = {**keys.credentials, "registry_token": token}
    says = "the caller's registry_token" if codes else ""
    return Pass(credentials=credentials, secrets=(*keys.secrets, token), codes=codes, says=says)


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return Kubeflow(s3.make(request, folder))
