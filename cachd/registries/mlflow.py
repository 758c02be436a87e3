"""``mlflow://`` and ``models:/``: MLflow's model registry, by its tracking server's REST API 2.0.

Written from MLflow's REST API documentation (mlflow.org/docs/latest/rest-api.html) and from what a
server of version 3 answers. Models that were logged with MLflow 3 have an id of their own
(``models:/m-…``), and versions may be registered by it; artifacts are where the store's own URI
says, or behind the server's artifact proxy (``mlflow-artifacts:/…``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from cachd.credentials import SourceOptions
from cachd.errors import NotFound, OriginError, UriInvalid
from cachd.metadata import PROPERTY, moment, tidy
from cachd.names import escape
from cachd.registries.base import Entry, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachd.registries.server import RegistryServer

_API = "/api/2.0/mlflow"
_LOGGED = re.compile(r"m-[0-9a-f]{32}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_PROXY = "mlflow-artifacts:"
_NOT_THERE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})

Json = dict[str, Any]


class MlflowRegistry:
    kind = "mlflow"
    schemes = ("mlflow", "models")

    def parse(
        self, scheme: str, path: str, query: Mapping[str, str], is_host: Callable[[str], bool]
    ) -> Entry:
        """``[host/]name``, ``name/version``, ``name/latest``, ``name/alias``, ``name@alias``; and
        ``m-…``, a logged model's id. ``models:/`` never names a host, as MLflow's own."""
        if query:
            raise UriInvalid(
                f"the URI's query has an unknown option {sorted(query)[0]!r}",
                field="uri",
                hint="known is registry",
            )
        parts = path.split("/")
        host = ""
        if scheme != "models" and len(parts) > 1 and is_host(parts[0]):
            host, *parts = parts
        name, at, alias = parts[0].partition("@")
        version = parts[1] if len(parts) == 2 else ""
        if (
            not name
            or ":" in name
            or len(parts) > 2
            or (at and (version or not alias))
            or "" in parts
        ):
            raise UriInvalid(
                "the URI names no model, or a version twice",
                field="uri",
                hint="it looks like mlflow://name/3, mlflow://name@champion or models:/name/3",
            )
        if version == "latest":
            version = ""
        elif version and not (version.isascii() and version.isdigit()):
            version, alias = "", version
        return Entry(host=host, model=name, version=version, alias=alias)

    def default_url(self, entry: Entry, base: str, environ: Mapping[str, str]) -> str:
        """``MLFLOW_REGISTRY_URI``, else ``MLFLOW_TRACKING_URI``, where that is a server."""
        said = environ.get("MLFLOW_REGISTRY_URI") or environ.get("MLFLOW_TRACKING_URI", "")
        own = base or said
        return own if own.startswith(("http://", "https://")) else ""

    async def name(self, entry: Entry, server: RegistryServer) -> Target:
        if _LOGGED.fullmatch(entry.model) and not entry.version and not entry.alias:
            return await self._logged(entry.model, server)
        version = await self._version(entry, server)
        number = str(version.get("version") or "")
        if str(version.get("status") or "READY") != "READY":
            raise NotFound(
                f"version {_plain(number)} of model {entry.model!r} is "
                f"{_plain(version.get('status'))} in the {server.who}",
                hint="ask again when it is READY",
            )
        told = await server.get(
            f"{_API}/model-versions/get-download-uri", name=entry.model, version=number
        )
        uri = str(told.get("artifact_uri") or version.get("source") or "")
        metadata = _metadata(version)
        identity = f"{number}:{version.get('creation_timestamp')}"
        model_id = uri.removeprefix("models:/")
        if uri.startswith("models:/") and _LOGGED.fullmatch(model_id):
            logged = await self._logged(model_id, server)
            return Target(
                uri=logged.uri,
                options=logged.options,
                identity=logged.identity,
                metadata={**logged.metadata, **metadata},
                is_at_registry=logged.is_at_registry,
            )
        return _target(uri, identity, metadata, server)

    async def _version(self, entry: Entry, server: RegistryServer) -> Json:
        if entry.version:
            what = f"version {entry.version}"
            path, query = "model-versions/get", {"name": entry.model, "version": entry.version}
        elif entry.alias:
            what = f"alias {entry.alias!r}"
            path, query = "registered-models/alias", {"name": entry.model, "alias": entry.alias}
        else:
            return await self._latest(entry, server)
        answer = await _find(
            server, path, query, f"model {entry.model!r} has no {what}",
            "leave the version out for the newest one; a word is an alias (stages aren't read)",
        )  # fmt: skip
        return _object(answer, "model_version", server)

    async def _latest(self, entry: Entry, server: RegistryServer) -> Json:
        """The highest number; the server tells the newest of each stage."""
        answer = await _find(
            server, "registered-models/get", {"name": entry.model},
            f"there is no model {entry.model!r}",
            "check the model's name; a host before it has a ':' or a '.'",
        )  # fmt: skip
        model = _object(answer, "registered_model", server)
        versions = server.rows(model, "latest_versions")
        numbered = [v for v in versions if _NUMBER.fullmatch(str(v.get("version")))]
        if not numbered:
            raise NotFound(f"model {entry.model!r} has no versions in the {server.who}")
        newest: Json = max(numbered, key=lambda version: int(version["version"]))
        if not newest.get("description") and model.get("description"):
            newest = {**newest, "description": model["description"]}
        return newest

    async def _logged(self, model_id: str, server: RegistryServer) -> Target:
        answer = await _find(
            server, f"logged-models/{quote(model_id)}", {},
            f"there is no logged model {model_id}", "check the id",
        )  # fmt: skip
        model = _object(answer, "model", server)
        info = _object(model, "info", server)
        tags = {f"{PROPERTY}{name}": value for name, value in _pairs(info.get("tags"))}
        metadata = tidy(
            {
                "name": info.get("name"),
                "version": model_id,
                "format": "mlflow",
                "created": moment(info.get("creation_timestamp_ms")),
                "state": info.get("status"),
                **tags,
            }
        )
        return _target(str(info.get("artifact_uri") or ""), model_id, metadata, server)


async def _find(
    server: RegistryServer, path: str, query: Mapping[str, str], missing: str, hint: str
) -> Json:
    try:
        found: Json = await server.get(f"{_API}/{path}", **query)
    except NotFound:
        raise NotFound(f"{missing} in the {server.who}", hint=hint) from None
    except OriginError as error:
        # An alias that isn't there is an invalid parameter to it.
        if error.detail.get("status") == 400 and error.detail.get("error_code") in _NOT_THERE:
            raise NotFound(f"{missing} in the {server.who}", hint=hint) from None
        raise
    return found


def _object(answer: Json, name: str, server: RegistryServer) -> Json:
    found = answer.get(name)
    if not isinstance(found, dict):
        raise server.nonsense(f"no {name}")
    return found


def _target(uri: str, identity: str, metadata: dict[str, str], server: RegistryServer) -> Target:
    if not uri:
        raise NotFound(f"the {server.who} tells no place of the artifact")
    # What was logged under an id of its own is the same whichever version it was registered as.
    logged = _LOGGED.search(uri)
    identity = logged[0] if logged else identity
    if not uri.startswith(_PROXY):
        return Target(uri=uri, identity=identity, metadata=metadata)
    # mlflow-artifacts:/path is behind the server that was asked; with a host it names another.
    try:
        parts = urlsplit(uri)
        path = quote(parts.path.strip("/"), safe="/%-_.~")
    except ValueError:
        raise server.nonsense("a place of the artifact that is no URI") from None
    own = urlsplit(server.url)
    if parts.netloc and parts.netloc.lower() != own.netloc.lower():
        raise NotFound(
            f"the artifact is behind another server's proxy ({_plain(parts.netloc)}) than the "
            f"{server.who}",
            hint="ask that server for the model",
        )
    return Target(
        uri=f"mlflow-artifacts://{own.netloc}/{path}",
        options=SourceOptions(registry=server.url),
        identity=identity,
        metadata=metadata,
        is_at_registry=True,
    )


def _metadata(version: Json) -> dict[str, str]:
    tags = {f"{PROPERTY}{name}": value for name, value in _pairs(version.get("tags"))}
    return tidy(
        {
            "name": version.get("name"),
            "version": str(version.get("version") or ""),
            "author": version.get("user_id"),
            "description": version.get("description"),
            "format": "mlflow",
            "created": moment(version.get("creation_timestamp")),
            "state": version.get("status"),
            **tags,
        }
    )


def _plain(told: object) -> str:
    """For a message."""
    return escape(str(told))[1:-1]


def _pairs(tags: Any) -> list[tuple[str, str]]:
    rows = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return [(str(tag.get("key")), str(tag.get("value"))) for tag in rows]
