"""Where a hub's URI leads: which of its endpoints is asked. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.sources.base import Location
from cachd.sources.endpoints import normalise_endpoint
from cachd.sources.hub_uri import parse_hub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.settings.hub import HubSettings
    from cachd.settings.modelscope import ModelScopeSettings
    from cachd.sources.hubs import HubNames


def locate_hub(
    uri: str,
    options: SourceOptions,
    settings: HubSettings | ModelScopeSettings,
    environ: Mapping[str, str],
    names: HubNames,
) -> Location:
    """The endpoint is the request's, else the daemon's. Raises UriInvalid."""
    address = parse_hub(uri)
    default = _default(settings, environ, names)
    endpoint = (
        _normalise(options.endpoint, "options.endpoint", names) if options.endpoint else default
    )
    return Location(
        scheme=names.scheme,
        uri=address.uri,
        origin=f"{names.scheme}+{endpoint}",
        is_default_origin=endpoint == default,
        options=options.without_s3(endpoint),
    )


def _default(
    settings: HubSettings | ModelScopeSettings, environ: Mapping[str, str], names: HubNames
) -> str:
    if settings.endpoint:
        return _normalise(settings.endpoint, f"sources.{names.scheme}.endpoint", names)
    for variable in names.endpoint_variables:
        if environ.get(variable):
            return _normalise(environ[variable], variable, names)
    return names.endpoint


def _normalise(endpoint: str, field: str, names: HubNames) -> str:
    return normalise_endpoint(
        endpoint, field, what=f"{names.title}'s endpoint", example="https://hub.example:8080/path"
    )
