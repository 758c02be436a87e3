"""Short forms of the calls under test."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachd.credentials import Credentials, SourceOptions
from cachd.registries.source import RegistrySource
from cachd.settings import SourcesSettings
from cachd.sources.base import SourceContext, SourceRequest
from cachd.sources.egress import EgressGuard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.sources.base import Location, Target


def configured(*registries: dict[str, Any]) -> SourcesSettings:
    return SourcesSettings.model_validate({"registries": registries})


def locate(
    uri: str,
    *registries: dict[str, Any],
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> Location:
    return RegistrySource().locate(
        uri, SourceOptions(**options), configured(*registries), environ or {}
    )


async def name(
    uri: str,
    *registries: dict[str, Any],
    environ: Mapping[str, str] | None = None,
    credentials: Credentials | None = None,
    identity: Any = None,
    **options: Any,
) -> Target:
    """What the first registry says; ``identity``: the caller's with credentials, else nobody's."""
    location = locate(uri, *registries, environ=environ, **options)
    chosen = configured(*registries)
    request = SourceRequest(
        location=replace(location, registries=location.registries[:1]),
        identity=identity or ("caller" if credentials else "anonymous"),
        credentials=credentials or Credentials(),
    )
    context = SourceContext(
        settings=chosen, egress=EgressGuard(chosen.egress), environ=dict(environ or {})
    )
    return await RegistrySource().name(request, context)
