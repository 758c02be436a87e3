"""``cachd key``: the key of a URI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.cli import patterns
from cachd.cli.output import print_json, warn
from cachd.cli.request import request_body
from cachd.model import SourceOptions, make_ref

if TYPE_CHECKING:
    import argparse


def key(arguments: argparse.Namespace) -> int:
    """Print the key. Computed here, by the daemon's code with the daemon's configuration file: no
    daemon needs to run, and nothing is asked of the source."""
    from cachd.settings import load_settings  # noqa: PLC0415
    from cachd.sources.registry import Registry, split_scheme  # noqa: PLC0415

    body, warnings = request_body(arguments, os.environ)
    for text in warnings:
        warn(text)
    config = arguments.config or os.environ.get("CACHD_CONFIG")
    settings = load_settings(Path(config) if config else None, {})
    scheme, uri = split_scheme(arguments.uri)
    location = (
        Registry()
        .source(scheme)
        .locate(uri, SourceOptions(**body.get("options", {})), settings.sources, {})
    )
    ref = make_ref(
        uri=location.uri,
        origin=location.origin,
        is_default_origin=location.is_default_origin,
        allow=patterns.gather(arguments.allow, patterns.ALLOW_VARIABLE, os.environ),
        ignore=patterns.gather(arguments.ignore, patterns.IGNORE_VARIABLE, os.environ),
    )
    if arguments.json:
        print_json(ref.to_json())
    else:
        print(ref.key)
    return 0
