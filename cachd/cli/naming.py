"""``cachd key``: the key of a URI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.cli.choosing import admin_client
from cachd.cli.output import print_json, warn
from cachd.cli.request import request_body
from cachd.credentials import SourceOptions
from cachd.errors import DaemonUnreachable

if TYPE_CHECKING:
    import argparse


def key(arguments: argparse.Namespace) -> int:
    """Print the key. The daemon says it; with ``--config``, or where none runs, it is computed
    here by the daemon's code. Nothing is asked of the source."""
    body, warnings = request_body(arguments, os.environ)
    for text in warnings:
        warn(text)
    # A key says nothing of who asks.
    body.pop("credentials", None)
    config = arguments.config or os.environ.get("CACHD_CONFIG")
    ref = _compute(body, config) if config else _ask(arguments, body)
    if arguments.json:
        print_json(ref)
    else:
        print(ref["key"])
    return 0


def _ask(arguments: argparse.Namespace, body: dict[str, Any]) -> dict[str, Any]:
    try:
        return admin_client(arguments, needed=False).call("POST", "/v1/key", body)
    except DaemonUnreachable:
        warn("no daemon answers: this is the key on a daemon with default settings")
        return _compute(body, None)


def _compute(body: dict[str, Any], config: str | None) -> dict[str, Any]:
    from cachd.cache.resolve import locate  # noqa: PLC0415
    from cachd.cache.types import Ask  # noqa: PLC0415
    from cachd.settings import load_settings  # noqa: PLC0415
    from cachd.sources.resolver import Resolver  # noqa: PLC0415

    settings = load_settings(Path(config) if config else None, {})
    ask = Ask(
        uri=body["uri"],
        allow=tuple(body.get("allow", ())),
        ignore=tuple(body.get("ignore", ())),
        options=SourceOptions(**body.get("options", {})),
    )
    ref, _ = locate(ask, Resolver(settings.sources, environ={}))
    return ref.to_json()
