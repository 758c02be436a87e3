"""URIs of registries: which registry is meant, and what it says.

Where a URI names a registry (by host, by a configured name, by ``?registry=NAME`` or, in a
cluster, by ``?namespace=``) that one is asked. Else the one that the caller's ``options.registry``
says, else the configured ones of the kind whose ``match`` admits the model's name, in their order,
else the one of the daemon's environment. Nothing is probed: the same URI means the same registry
every time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

from cachd.errors import ConfigInvalid, InternalError, UriInvalid
from cachd.globs import matches_any
from cachd.registries.kinds import kind_of
from cachd.registries.server import open_server
from cachd.sources import endpoints
from cachd.sources.base import Location
from cachd.sources.s3_location import default_endpoint, normalise_endpoint
from cachd.sources.s3_partition import AWS, find_partition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cachd.credentials import SourceOptions
    from cachd.model import Auth, Plan
    from cachd.registries.base import Entry, Registry
    from cachd.settings import RegistryRule, SourcesSettings
    from cachd.sources.base import SourceContext, SourceRequest, Target

_PORT_OF_TLS = "443"


class RegistrySource:
    """Every scheme of every kind. It has no bytes: its locations say whom to ask for a name."""

    schemes = ("model-registry", "mlflow", "models")

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Raises UriInvalid; ConfigInvalid where the daemon's environment names no server."""
        scheme = uri.partition("://")[0]
        kind = kind_of(scheme)
        configured = [rule for rule in settings.registries if rule.kind == kind.kind]
        base = normalise_url(options.registry, "options.registry") if options.registry else ""
        path, query = _split(uri)
        wanted = query.pop("registry", "")

        def find(base: str) -> tuple[Entry, list[tuple[str, str]]]:
            try:
                entry = _parse(kind, scheme, path, query, base, configured, environ)
                if wanted and entry.host:
                    raise UriInvalid(
                        "the URI names a registry twice: by its host, and by registry=",
                        field="uri",
                        hint="leave one of them out",
                    )
                named = wanted or entry.host
                return entry, _places(kind, named, bool(wanted), entry, base, configured, environ)
            except ValueError:
                raise _bad_environment() from None

        def find_own() -> tuple[Entry, list[tuple[str, str]]] | None:
            """What would be asked if the caller said nothing."""
            try:
                return find("")
            except (UriInvalid, ConfigInvalid):
                return None

        entry, places = found = find(base)
        if wanted:
            query["registry"] = wanted
        given = f"?{urlencode(query)}" if query else ""
        asides = _asides(options, settings, environ)
        is_own = not base or found == find_own()
        return Location(
            scheme=scheme,
            uri=f"{scheme}://{path}{given}",
            origin=f"{kind.kind}+{','.join(url for _, url in places)}{asides}",
            is_default_origin=is_own and not asides,
            is_callers_server=bool(entry.host) and not all(name for name, _ in places),
            options=options,
            registries=tuple(places),
        )

    async def name(self, request: SourceRequest, context: SourceContext) -> Target:
        """What the one registry of the request says."""
        location = request.location
        kind = kind_of(location.scheme)
        (place,) = location.registries
        path, query = _split(location.uri)
        query.pop("registry", "")
        configured = [rule for rule in context.settings.registries if rule.kind == kind.kind]
        base = location.options.registry
        base = normalise_url(base, "options.registry") if base else ""
        entry = _parse(kind, location.scheme, path, query, base, configured, context.environ)
        async with open_server(request, context, kind.kind, place) as server:
            target = await kind.name(entry, server)
        metadata = {**target.metadata, "registry": server.name or server.url}
        return replace(target, metadata=metadata, is_credentialed=server.is_credentialed)

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        _no_bytes()

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        _no_bytes()

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        _no_bytes()


def _no_bytes() -> NoReturn:
    raise InternalError("a registry's name was taken for a source's URI")


def _split(uri: str) -> tuple[str, dict[str, str]]:
    """Path and query. A slash at the end means nothing."""
    path, mark, text = uri.partition("://")[2].partition("?")
    if "#" in path:
        raise UriInvalid(
            "the URI has a fragment, which names nothing",
            field="uri",
            hint="leave out '#' and more",
        )
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if mark else []
    except ValueError:
        raise UriInvalid(
            "the URI's query is not name=value&…", field="uri", hint="it looks like ?registry=NAME"
        ) from None
    query = dict(pairs)
    if len(query) != len(pairs) or not all(query.values()):
        raise UriInvalid(
            "the URI's query says something twice, or nothing",
            field="uri",
            hint="give each option once, with a value",
        )
    return path.rstrip("/"), query


def _parse(
    kind: Registry,
    scheme: str,
    path: str,
    query: Mapping[str, str],
    base: str,
    configured: Sequence[RegistryRule],
    environ: Mapping[str, str],
) -> Entry:
    """The deterministic rule: a first part with ``:`` or ``.``, a configured name, or the host of a
    registry that is known is the registry."""
    from cachd.registries.base import Entry  # noqa: PLC0415  (a kind's own words)

    own = kind.default_url(Entry(model="m"), base, environ)
    known = {rule.name for rule in configured}
    known |= {urlsplit(url).netloc.lower() for url in (base, own, *(r.url for r in configured))}
    known.discard("")

    def is_host(part: str) -> bool:
        return ":" in part or "." in part or part in known or part.lower() in known

    return kind.parse(scheme, path, query, is_host)


def _places(
    kind: Registry,
    wanted: str,
    is_name: bool,
    entry: Entry,
    base: str,
    configured: Sequence[RegistryRule],
    environ: Mapping[str, str],
) -> list[tuple[str, str]]:
    if wanted:
        named = [rule for rule in configured if rule.name == wanted]
        named = named or [r for r in configured if urlsplit(r.url).netloc.lower() == wanted.lower()]
        if named:
            return [(named[0].name, named[0].url)]
        if is_name:
            raise UriInvalid(
                f"no registry of the kind {kind.kind} is called {wanted!r} here",
                field="uri",
                hint="known are " + (", ".join(rule.name for rule in configured) or "none")
                + "; see sources.registries",
            )  # fmt: skip
        own = kind.default_url(entry, base, environ)
        if urlsplit(own).netloc.lower() == wanted.lower():
            return [("", own)]
        scheme = urlsplit(own).scheme or "http"
        if wanted.rpartition(":")[2] == _PORT_OF_TLS:
            scheme = "https"
        return [("", normalise_url(f"{scheme}://{wanted}", "uri"))]
    if base or entry.namespace:
        url = _own_url(kind, entry, base, environ) or base
        return [(next((r.name for r in configured if r.url == url), ""), url)]
    found = [(rule.name, rule.url) for rule in configured if matches_any(rule.match, entry.model)]
    if found:
        return found
    own = _own_url(kind, entry, "", environ)
    if not own:
        raise UriInvalid(
            f"the URI names no registry, and none of the kind {kind.kind} is configured for it",
            field="uri",
            hint="name its host in the URI; or set MODEL_REGISTRY_BASE_URL (for MLflow "
            "MLFLOW_TRACKING_URI) where you ask, options.registry in the API, or the daemon's "
            "sources.registries",
        )
    return [("", own)]


def _own_url(kind: Registry, entry: Entry, base: str, environ: Mapping[str, str]) -> str:
    """Where an entry that names no registry leads, "" for nowhere; ``base`` is normalised."""
    try:
        url = kind.default_url(entry, base, environ)
        return normalise_url(url, "") if url else ""
    except (ValueError, UriInvalid):
        raise _bad_environment() from None


def _bad_environment() -> ConfigInvalid:
    return ConfigInvalid(
        "the daemon's environment names a registry by what is no http:// or https:// URL",
        hint="correct MODEL_REGISTRY_BASE_URL, or what else names it, where the daemon runs",
    )


def normalise_url(url: str, field: str) -> str:
    """``scheme://host[:port][/path]``. Raises UriInvalid."""
    return endpoints.normalise_endpoint(
        url,
        field,
        what="the registry's URL",
        example="https://registry.example:8443; a name and a password go beside it",
        scheme="http",
    )


def _asides(options: SourceOptions, settings: SourcesSettings, environ: Mapping[str, str]) -> str:
    """What the caller says of the artifact's store: the same name means another model there."""
    said: dict[str, str] = {}
    if options.endpoint:
        endpoint = normalise_endpoint(options.endpoint)
        if endpoint != default_endpoint(settings.s3, environ):
            said["endpoint"] = endpoint
    partition = find_partition(options.region) if options.region else None
    if partition not in (None, AWS) and "endpoint" not in said:
        said["partition"] = str(partition)
    for name in ("root", "user", "plain_http"):
        value = getattr(options, name)
        if value:
            said[name] = str(value)
    if options.addressing == "virtual":
        said["addressing"] = options.addressing
    return f";{urlencode(said, safe=':/')}" if said else ""
