"""Where a hub's URI leads: which of its endpoints is asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.sources.base import Location
from cachd.sources.endpoints import normalise_endpoint
from cachd.sources.hub_uri import HUBS, parse_hub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.settings.hub import HubSettings
    from cachd.settings.modelscope import ModelScopeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class HubNames:
    """What one hub calls things: its own endpoint, and the environment's variables, first one
    first, that say another endpoint, and whose token."""

    scheme: str
    endpoint: str
    endpoint_variables: tuple[str, ...]
    token_variables: tuple[str, ...]

    @property
    def hub(self) -> str:
        return HUBS[self.scheme]


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
        options=replace(options, endpoint=endpoint, region=None, addressing=None, accelerate=None),
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
        endpoint, field, what=f"{names.hub}'s endpoint", example="https://hub.example:8080/path"
    )
