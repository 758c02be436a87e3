"""Short forms of the calls under test."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachd.credentials import Credentials, SourceOptions
from cachd.model import Plan
from cachd.settings import EgressSettings, SourcesSettings
from cachd.sources.base import SourceContext, SourceRequest
from cachd.sources.egress import EgressGuard
from cachd.sources.registry import Registry, split_scheme
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY

if TYPE_CHECKING:
    from cachd.sources.base import Source

KEYS = Credentials(access_key=ACCESS_KEY, secret_key=SECRET_KEY)
NOBODY = Credentials(anonymous=True)
NONE = Credentials()
"""A caller who sends nothing, without having chosen to be anonymous."""


OPEN: list[Registry] = []
"""Closed after each test by ``conftest``."""


def settings(**sections: Any) -> SourcesSettings:
    return SourcesSettings.model_validate(sections)


def context(given: SourcesSettings | None = None) -> SourceContext:
    chosen = given or SourcesSettings()
    return SourceContext(
        settings=chosen, egress=EgressGuard(chosen.egress), environ=dict(os.environ)
    )


def guard(**fields: Any) -> EgressGuard:
    return EgressGuard(EgressSettings(**fields))


def request(
    uri: str,
    credentials: Credentials = KEYS,
    *,
    given: SourcesSettings | None = None,
    allow: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    identity: Any = "caller",
    **options: Any,
) -> tuple[Source, SourceRequest]:
    _, plain = split_scheme(uri)
    registry = Registry()
    OPEN.append(registry)
    source = registry.source(registry.name_of(plain))
    location = source.locate(
        plain, SourceOptions(**options), given or SourcesSettings(), dict(os.environ)
    )
    return source, SourceRequest(
        location=location,
        allow=allow,
        ignore=ignore,
        identity=identity,
        credentials=credentials,
    )


async def resolve(uri: str, credentials: Credentials = KEYS, **kwargs: Any) -> Plan:
    """The plan of ``uri``; ``given`` are settings, other words go to ``request``."""
    source, asked = request(uri, credentials, **kwargs)
    return await source.resolve(asked, context(kwargs.get("given")))


async def resolve_once(uri: str, credentials: Credentials = NONE, **kwargs: Any) -> Plan:
    """As ``resolve``, of a caller who sends nothing and doesn't want failed requests made again."""
    return await resolve(uri, credentials, **{"max_attempts": 1, **kwargs})


async def probe_once(uri: str, path: str, credentials: Credentials = NONE, **kwargs: Any) -> None:
    """Ask whether the caller may read one file."""
    source, asked = request(uri, credentials, **{"max_attempts": 1, **kwargs})
    await source.probe(asked, path, context(kwargs.get("given")))


def paths(plan: Plan) -> dict[str, int | None]:
    return {f.path: f.size for f in plan.files}


__all__ = [
    "KEYS",
    "NOBODY",
    "NONE",
    "context",
    "guard",
    "paths",
    "probe_once",
    "replace",
    "request",
    "resolve",
    "resolve_once",
    "settings",
]
