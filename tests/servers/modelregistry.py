"""Kubeflow's Model Registry as far as its REST API v1alpha3 concerns models, versions and their
artifacts: a fake, for the server itself can't be had here.

Written from its OpenAPI document (api/openapi/model-registry.yaml): texts for ids and times, lists
with ``pageSize`` and ``nextPageToken``, ``orderBy`` and ``sortOrder`` (by id and ascending if
nothing is said), ``artifactType``, 404 for what a search doesn't find or finds twice. The
registry's own Python client works with it (tests/registries/test_peers.py).
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers.loopback import Handler, Server

API = re.compile(r"^/api/model_registry/v1(alpha3)?/")
"""Later servers and clients call the same API by another name."""

_TIMES = {"CREATE_TIME": "createTimeSinceEpoch", "LAST_UPDATE_TIME": "lastUpdateTimeSinceEpoch"}

Json = dict[str, Any]


class ModelRegistry:
    """``wanted``: headers without which it answers 401; ``refused``: 403 for everybody. ``status``:
    what it answers with in place of anything else, 0 for nothing. ``page`` caps lists."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.wanted: dict[str, str] = {}
        self.status = 0
        self.page = 0
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self._clock = 1_700_000_000_000
        self._numbers = 0
        self.models: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.artifacts: dict[str, Json] = {}
        self._lock = threading.RLock()
        registry = self

        class RegistryHandler(Handler):
            def do_GET(self) -> None:
                registry._answer(self)

            do_POST = do_PATCH = do_HEAD = do_GET

        self._server = Server(RegistryHandler, tls)
        self.port, self.host, self.url = self._server.port, self._server.host, self._server.url

    def close(self) -> None:
        self._server.stop()

    def wants_token(self, token: str) -> None:
        self.wanted = {"authorization": f"Bearer {token}"}

    def wants_password(self, name: str, password: str) -> None:
        mark = base64.b64encode(f"{name}:{password}".encode()).decode()
        self.wanted = {"authorization": f"Basic {mark}"}

    # --- what a test puts in ----------------------------------------------------------------

    def add(self, model: str, version: str, uri: str | None, **artifact: Any) -> Json:
        """A version with one model artifact, newer than everything; the artifact."""
        with self._lock:
            made = next((m for m in self.models.values() if m["name"] == model), None)
            made = made or self.create(self.models, {"name": model})
            known = [v for v in self.versions.values() if v["registeredModelId"] == made["id"]]
            row = next((v for v in known if v["name"] == version), None)
            row = row or self.create(
                self.versions, {"name": version, "registeredModelId": made["id"]}
            )
            body = {"artifactType": "model-artifact", "uri": uri, "_of": row["id"], **artifact}
            return self.create(self.artifacts, {k: v for k, v in body.items() if v is not None})

    def create(self, table: dict[str, Json], body: Mapping[str, Any]) -> Json:
        with self._lock:
            self._numbers += 1
            self._clock += 1000
            now = str(self._clock)
            item = {
                "state": "LIVE",
                "customProperties": {},
                "createTimeSinceEpoch": now,
                "lastUpdateTimeSinceEpoch": now,
                **body,
                "id": str(self._numbers),
            }
            table[item["id"]] = item
            return item

    def version(self, model: str, name: str) -> Json:
        owner = next(m["id"] for m in self.models.values() if m["name"] == model)
        return next(
            v
            for v in self.versions.values()
            if v["registeredModelId"] == owner and v["name"] == name
        )

    # --- HTTP -------------------------------------------------------------------------------

    def _answer(self, handler: Handler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = json.loads(handler.read_body() or b"{}")
        sent = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append((handler.command, handler.path, sent))
        with self._lock:
            status, answer = self._act(handler.command, parts.path, query, body, sent)
        handler.send(status, json.dumps(answer).encode(), Content_Type="application/json")

    def _act(
        self, method: str, path: str, query: dict[str, str], body: Json, sent: Mapping[str, str]
    ) -> tuple[int, Json]:
        if self.status:
            return _error(self.status, "told to")
        if any(sent.get(name) != value for name, value in self.wanted.items()):
            return _error(401, "who are you?")
        match [method, *API.sub("", path).split("/")]:
            case ["GET", "registered_model"]:
                return self._find(self.models, query, ("name", "externalId"))
            case ["GET", "registered_models"]:
                return self._list(list(self.models.values()), query)
            case ["POST", "registered_models"]:
                return self._create_unique(self.models, body)
            case [_, "registered_models", number]:
                return self._one(self.models, number, method, body)
            case ["GET", "registered_models", number, "versions"]:
                rows = [v for v in self.versions.values() if v["registeredModelId"] == number]
                return self._list(rows, query)
            case ["GET", "model_version"]:
                if not query.get("name") or not query.get("parentResourceId"):
                    return _error(400, "name and parentResourceId, or externalId, are needed")
                renamed = {
                    "name": query["name"], "registeredModelId": query["parentResourceId"]
                }  # fmt: skip
                return self._find(self.versions, renamed, ("name", "registeredModelId"))
            case ["POST", "model_versions"]:
                return self._create_unique(self.versions, body)
            case [_, "model_versions", number]:
                return self._one(self.versions, number, method, body)
            case ["GET", "model_versions", number, "artifacts"]:
                rows = [a for a in self.artifacts.values() if a["_of"] == number]
                kind = query.get("artifactType")
                return self._list([a for a in rows if kind in (None, a["artifactType"])], query)
            case ["POST", "model_versions", number, "artifacts"]:
                if body.get("id") in self.artifacts:
                    return self._one(self.artifacts, body["id"], "PATCH", body)
                return 201, _shown(self.create(self.artifacts, {**body, "_of": number}))
            case ["GET", "model_artifact"]:
                renamed = {"name": query.get("name", ""), "_of": query.get("parentResourceId", "")}
                return self._find(self.artifacts, renamed, ("name", "_of"))
            case [_, "model_artifacts", number]:
                return self._one(self.artifacts, number, method, body)
        return _error(404, f"no such path {path}")

    def _find(
        self, table: dict[str, Json], query: Mapping[str, str], names: tuple[str, ...]
    ) -> tuple[int, Json]:
        wanted = {name: query[name] for name in names if query.get(name)}
        found = [
            row for row in table.values() if all(row.get(k) == v for k, v in wanted.items())
        ]  # fmt: skip
        if not wanted or len(found) != 1:
            return _error(404, f"{len(found)} found")
        return 200, _shown(found[0])

    def _create_unique(self, table: dict[str, Json], body: Json) -> tuple[int, Json]:
        mark = (body.get("name"), body.get("registeredModelId"))
        if any((r["name"], r.get("registeredModelId")) == mark for r in table.values()):
            return _error(409, "it is there")
        return 201, _shown(self.create(table, body))

    def _one(
        self, table: dict[str, Json], number: str, method: str, body: Json
    ) -> tuple[int, Json]:
        row = table.get(number)
        if row is None:
            return _error(404, "no such id")
        if method == "PATCH":
            self._clock += 1000
            row |= {k: v for k, v in body.items() if v is not None and k != "id"}
            row["lastUpdateTimeSinceEpoch"] = str(self._clock)
        return 200, _shown(row)

    def _list(self, rows: list[Json], query: Mapping[str, str]) -> tuple[int, Json]:
        order = _TIMES.get(query.get("orderBy", "ID"), "id")
        rows = sorted(
            rows, key=lambda row: int(row[order]), reverse=query.get("sortOrder") == "DESC"
        )
        size = int(query.get("pageSize") or 0) or len(rows)
        size = min(size, self.page or size)
        first = int(query.get("nextPageToken") or 0)
        items = rows[first : first + size]
        more = first + size < len(rows)
        return 200, {
            "items": [_shown(row) for row in items],
            "nextPageToken": str(first + size) if more else "",
            "pageSize": size,
            "size": len(items),
        }


def _shown(row: Json) -> Json:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _error(status: int, message: str) -> tuple[int, Json]:
    return status, {"code": str(status), "message": message}
