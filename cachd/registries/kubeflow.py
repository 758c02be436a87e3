"""``model-registry://``: Kubeflow's Model Registry, REST v1alpha3.

Written from its OpenAPI document (kubeflow/model-registry, api/openapi/model-registry.yaml) and the
URI's forms of its KServe downloader (cmd/csi). Where that one probes whether a first part is a
host, a rule decides here; where it takes what comes first, states, kinds and times decide.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cachd.errors import ContentError, NotFound, UriInvalid
from cachd.metadata import PROPERTY, moment, tidy
from cachd.names import escape
from cachd.registries.base import Entry, Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from cachd.registries.server import RegistryServer

_APIS = ("/api/model_registry/v1alpha3", "/api/model_registry/v1")
"""The same API by both names: servers have the first, or the second, or both."""

_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,63}")
_PAGE = 500
_PAGES_MOST = 200
_GONE = frozenset({"MARKED_FOR_DELETION", "DELETED", "ABANDONED", "PENDING"})
_SERVICE = "model-registry-service"
_DOMAIN = "svc.cluster.local"
_PORT = 8080

Json = dict[str, Any]


class KubeflowRegistry:
    kind = "model-registry"
    schemes = ("model-registry",)

    def parse(
        self, scheme: str, path: str, query: Mapping[str, str], is_host: Callable[[str], bool]
    ) -> Entry:
        """``[host/]model[/version]``, and ``?namespace=``. With three parts the first is always the
        host, as with KServe. Nothing is percent-decoded; a version's own slashes need a host."""
        unknown = sorted(set(query) - {"namespace"})
        if unknown:
            raise UriInvalid(
                f"the URI's query has an unknown option {unknown[0]!r}",
                field="uri",
                hint="known are namespace and registry",
            )
        namespace = query.get("namespace", "")
        if namespace and not _NAMESPACE.fullmatch(namespace):
            raise UriInvalid("the URI's namespace is no name of a namespace", field="uri")
        parts = path.split("/", 2)
        host = ""
        if len(parts) == 3 or (len(parts) == 2 and is_host(parts[0])):
            host, *parts = parts
        is_only_a_host = len(parts) == 1 and not host and ":" in parts[0]
        if not all(parts) or is_only_a_host:
            raise UriInvalid(
                "the URI names no model",
                field="uri",
                hint="it looks like model-registry://model/version or "
                "model-registry://host:8080/model/version",
            )
        return Entry(
            host=host,
            model=parts[0],
            version=parts[1] if len(parts) == 2 else "",
            namespace=namespace,
        )

    def default_url(self, entry: Entry, base: str, environ: Mapping[str, str]) -> str:
        """The names are those of the registry's own KServe downloader (cmd/csi/main.go)."""
        scheme = environ.get("MODEL_REGISTRY_SCHEME") or "http"
        own = base or environ.get("MODEL_REGISTRY_BASE_URL", "")
        if own and "://" not in own:
            own = f"{scheme}://{own}"
        if not entry.namespace:
            return own
        if base and f".{entry.namespace}." in (urlsplit(base).hostname or ""):
            return base
        service = environ.get("MODEL_REGISTRY_SERVICE_NAME") or _SERVICE
        domain = environ.get("MODEL_REGISTRY_CLUSTER_DOMAIN") or _DOMAIN
        known = urlsplit(own)
        host = f"{service}.{entry.namespace}.{domain}"
        return f"{known.scheme or scheme}://{host}:{known.port or _PORT}"

    async def name(self, entry: Entry, server: RegistryServer) -> Target:
        model, path = await self._model(entry, server)
        api = path.partition("/registered_models")[0]
        if entry.version:
            version = await self._version(entry, model, api, server)
        else:
            version = await self._newest(entry, path, server)
        artifact = await self._artifact(entry, version, api, server)
        uri = artifact.get("uri") or _stored(artifact, server.root)
        if not uri:
            raise NotFound(
                f"version {escape(str(version.get('name')))} of model {entry.model!r} has a model "
                f"artifact without a URI in the {server.who}",
                hint="register its URI; a storageKey needs STORAGE_CONFIG with a bucket where the "
                "client runs",
            )
        return Target(
            uri=str(uri),
            identity=f"{version.get('id')}:{artifact.get('id')}:"
            f"{artifact.get('lastUpdateTimeSinceEpoch')}",
            metadata=_metadata(model, version, artifact),
        )

    async def _model(self, entry: Entry, server: RegistryServer) -> tuple[Json, str]:
        """The model, and the path of the API that has it."""
        model: Json = {}
        for api in _APIS:
            try:
                model = await server.get(f"{api}/registered_model", name=entry.model)
            except NotFound:
                continue
            break
        else:
            raise NotFound(
                f"there is no model {entry.model!r} in the {server.who}",
                hint="check the model's name; a host before it has a ':' or a '.'",
            )
        if model.get("state") == "ARCHIVED" and not server.allow_archived:
            raise NotFound(
                f"model {entry.model!r} is archived in the {server.who}",
                hint="restore it there, or set allow_archived of that registry",
            )
        return model, f"{api}/registered_models/{_id(model, server)}"

    async def _version(self, entry: Entry, model: Json, api: str, server: RegistryServer) -> Json:
        try:
            version: Json = await server.get(
                f"{api}/model_version", name=entry.version, parentResourceId=_id(model, server)
            )
        except NotFound:
            raise NotFound(
                f"model {entry.model!r} has no version {entry.version!r} in the {server.who}",
                hint="leave the version out for the newest one",
            ) from None
        if version.get("state") == "ARCHIVED" and not server.allow_archived:
            raise NotFound(
                f"version {entry.version!r} of model {entry.model!r} is archived in the "
                f"{server.who}",
                hint="restore it there, or set allow_archived of that registry",
            )
        return version

    async def _newest(self, entry: Entry, path: str, server: RegistryServer) -> Json:
        """The server's own order is by id, or none at all in older ones: times are compared."""
        newest: Json | None = None
        count = 0
        async for each in _list(
            server, f"{path}/versions",
            orderBy="CREATE_TIME", sortOrder="DESC",
        ):  # fmt: skip
            count += 1
            if each.get("state", "LIVE") == "LIVE":
                newest = _newer(newest, each)
        if newest is not None:
            return newest
        if count:
            raise NotFound(
                f"all {count} versions of model {entry.model!r} are archived in the {server.who}",
                hint="register a new version, or restore one",
            )
        raise NotFound(
            f"no versions associated to registered model {entry.model!r} in the {server.who}"
        )

    async def _artifact(
        self, entry: Entry, version: Json, api: str, server: RegistryServer
    ) -> Json:
        newest: Json | None = None
        states: set[str] = set()
        async for each in _list(
            server, f"{api}/model_versions/{_id(version, server)}/artifacts",
            artifactType="model-artifact", orderBy="CREATE_TIME", sortOrder="DESC",
        ):  # fmt: skip
            if each.get("artifactType") != "model-artifact":
                continue
            states.add(str(each.get("state"))[:40])
            if str(each.get("state", "LIVE")) not in _GONE:
                newest = _newer(newest, each)
        if newest is not None:
            return newest
        called = escape(str(version.get("name")))
        named = f"version {called} of model {entry.model!r} in the {server.who}"
        if states:
            shown = ", ".join(sorted(states)[:10])
            raise NotFound(f"no model artifact of {named} can be used: {shown}")
        raise NotFound(f"no model artifact found for {named}")


def _stored(artifact: Json, root: str) -> str:
    """By KServe's STORAGE_CONFIG: ``root`` is the bucket that the caller's has."""
    path = str(artifact.get("storagePath") or "").strip("/")
    if not artifact.get("storageKey") or "://" not in root:
        return ""
    return f"{root.rstrip('/')}/{path}" if path else root


def _id(item: Json, server: RegistryServer) -> str:
    found = str(item.get("id") or "")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", found):
        raise server.nonsense("an entry without an id")
    return found


def _age_of(item: Json) -> tuple[int, int]:
    """Milliseconds and id, as numbers: texts of numbers sort wrongly."""
    return _number(item.get("createTimeSinceEpoch")), _number(item.get("id"))


def _number(text: Any) -> int:
    digits = str(text or "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0


def _newer(known: Json | None, item: Json) -> Json:
    return item if known is None or _age_of(item) > _age_of(known) else known


async def _list(server: RegistryServer, path: str, **query: str) -> AsyncIterator[Json]:
    """The rows of all pages; one page is held at a time."""
    token = ""
    for _ in range(_PAGES_MOST):
        more = {"nextPageToken": token} if token else {}
        page = await server.get(path, pageSize=_PAGE, **query, **more)
        for row in server.rows(page, "items"):
            yield row
        following = str(page.get("nextPageToken") or "")
        if not following or following == token:
            return
        token = following
    raise ContentError(
        f"the {server.who} lists more than {_PAGES_MOST} pages of {path}",
        hint="name the version; remove versions or artifacts that nobody needs",
    )


def _metadata(model: Json, version: Json, artifact: Json) -> dict[str, str]:
    properties: dict[str, str | None] = {}
    for item in (model, version, artifact):
        custom = item.get("customProperties")
        for name, value in custom.items() if isinstance(custom, dict) else ():
            properties[f"{PROPERTY}{name}"] = _text(value)
    return tidy(
        {
            "name": model.get("name"),
            "version": version.get("name"),
            "author": version.get("author") or model.get("owner"),
            "description": version.get("description") or model.get("description"),
            "format": artifact.get("modelFormatName"),
            "format_version": artifact.get("modelFormatVersion"),
            "created": moment(version.get("createTimeSinceEpoch")),
            "state": version.get("state"),
            **properties,
        }
    )


def _text(value: Any) -> str | None:
    """A MetadataValue: one of ``string_value``, ``int_value``, ``double_value``, ``bool_value``,
    ``struct_value`` (JSON in Base64) and ``proto_value``."""
    if not isinstance(value, dict):
        return None
    for name in ("string_value", "int_value", "double_value", "struct_value"):
        if value.get(name) is not None:
            return str(value[name])
    flag = value.get("bool_value")
    return None if flag is None else str(flag).lower()
