"""``cachd key``: the key of a URI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.cli.output import print_json, warn
from cachd.cli.request import request_body
from cachd.model import SourceOptions

if TYPE_CHECKING:
    import argparse


def key(arguments: argparse.Namespace) -> int:
    """Print the key. Computed here, by the daemon's code with the daemon's configuration file: no
    daemon needs to run, and nothing is asked of the source."""
    from cachd.cache.resolve import locate  # noqa: PLC0415
    from cachd.cache.types import Ask  # noqa: PLC0415
    from cachd.settings import load_settings  # noqa: PLC0415
    from cachd.sources.resolver import Resolver  # noqa: PLC0415

    body, warnings = request_body(arguments, os.environ)
    for text in warnings:
        warn(text)
    config = arguments.config or os.environ.get("CACHD_CONFIG")
    settings = load_settings(Path(config) if config else None, {})
    ask = Ask(
        uri=arguments.uri,
        allow=tuple(body.get("allow", ())),
        ignore=tuple(body.get("ignore", ())),
        options=SourceOptions(**body.get("options", {})),
    )
    ref, _ = locate(ask, Resolver(settings.sources, environ={}))
    if arguments.json:
        print_json(ref.to_json())
    else:
        print(ref.key)
    return 0
