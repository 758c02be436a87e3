"""The body of an ask, from the command line and the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cli import patterns
from cachd.cli.forward import Overrides, gather

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def request_body(
    arguments: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body for ``POST /v1/models`` and ``/v1/plan``, and warnings. Raises InvalidError."""
    overrides = Overrides(
        endpoint=arguments.endpoint,
        region=arguments.region,
        addressing=arguments.addressing,
        anonymous=arguments.anonymous,
        verify=False if arguments.no_verify_ssl else None,
        ca_bundle=arguments.ca_bundle,
        headers=tuple(arguments.header),
    )
    forwarded = gather(environ, arguments.uri, overrides, forward=not arguments.no_forward)
    fields = {
        "allow": list(patterns.gather(arguments.allow, patterns.ALLOW_VARIABLE, environ)),
        "ignore": list(patterns.gather(arguments.ignore, patterns.IGNORE_VARIABLE, environ)),
        "credentials": forwarded.credentials,
        "options": forwarded.options,
    }
    given = {name: value for name, value in fields.items() if value}
    return {"uri": arguments.uri, **given}, forwarded.warnings
