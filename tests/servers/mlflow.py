"""As much of an MLflow server's REST API as cachd asks: a fake for the many cases. Its answers are
shaped as MLflow 3's own, which tests/registries/test_peers.py asks."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.loopback import Handler, Server

_API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"

Json = dict[str, Any]


class Mlflow:
    """``versions``: of each model, number → URI; ``aliases``: of each, alias → number. ``logged``:
    model id → URI. ``files`` are behind the proxy; ``listed`` adds rows to a directory's list."""

    def __init__(self) -> None:
        self.versions: dict[str, dict[str, str]] = {}
        self.aliases: dict[str, dict[str, str]] = {}
        self.logged: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.listed: dict[str, list[Json]] = {}
        self.pending: set[str] = set()
        self.authorization = ""
        self.asked: list[str] = []
        fake = self

        class MlflowHandler(Handler):
            def do_GET(self) -> None:
                fake._answer(self)

        self._server = Server(MlflowHandler)
        self.host, self.url = self._server.host, self._server.url

    def close(self) -> None:
        self._server.stop()

    def _answer(self, handler: Handler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append(handler.path)
        if self.authorization and handler.headers.get("Authorization") != self.authorization:
            handler.send(401, b"You are not authenticated.")
        elif parts.path.startswith(f"{FILES}/"):
            body = self.files.get(unquote(parts.path.removeprefix(f"{FILES}/")))
            handler.send(404 if body is None else 200, body or b"{}")
        else:
            status, answer = self._act(parts.path, query)
            handler.send(status, json.dumps(answer).encode())

    def _act(self, path: str, query: dict[str, str]) -> tuple[int, Json]:
        if path == FILES:
            below = query.get("path", "")
            return 200, {"files": [*self._list(below), *self.listed.get(below, [])]}
        name, version = query.get("name", ""), query.get("version", "")
        known = self.versions.get(name, {})
        match path.removeprefix(f"{_API}/").split("/"):
            case ["registered-models", "get"] if known:
                latest = [self._version(name, number) for number in known]
                return 200, {"registered_model": {"name": name, "latest_versions": latest}}
            case ["registered-models", "alias"]:
                number = self.aliases.get(name, {}).get(query.get("alias", ""))
                if number is None:
                    return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "not found."}
                return 200, {"model_version": self._version(name, number)}
            case ["model-versions", "get"] if version in known:
                return 200, {"model_version": self._version(name, version)}
            case ["model-versions", "get-download-uri"] if version in known:
                return 200, {"artifact_uri": known[version]}
            case ["logged-models", model_id] if model_id in self.logged:
                info = {"model_id": model_id, "artifact_uri": self.logged[model_id]}
                return 200, {"model": {"info": info}}
        return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"{path} not found"}

    def _version(self, name: str, number: str) -> Json:
        status = "PENDING_REGISTRATION" if f"{name}/{number}" in self.pending else "READY"
        return {
            "name": name,
            "version": number,
            "creation_timestamp": 1_700_000_000_000,
            "source": self.versions[name][number],
            "status": status,
            "description": "of flowers",
            "tags": [{"key": "stage", "value": "prod"}],
        }

    def _list(self, path: str) -> list[Json]:
        rows: dict[str, Json] = {}
        for file, body in self.files.items():
            if file.startswith(f"{path}/"):
                name, slash, _ = file.removeprefix(f"{path}/").partition("/")
                size = {} if slash else {"file_size": len(body)}
                rows[name] = {"path": name, "is_dir": bool(slash), **size}
        return list(rows.values())
