"""What goes to standard output and standard error, apart from progress."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from cachd.cli import render
from cachd.cli.sockets import suspicious_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.errors import CachdError


def print_json(value: Any) -> None:
    """One JSON value on stdout; indented for people."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None), flush=True)


def warn(text: str) -> None:
    print(f"cachd: warning: {render.printable(text)}", file=sys.stderr)


def warn_of_variables(environ: Mapping[str, str]) -> None:
    """Warn of ``CACHD_*`` names that look misspelt."""
    for name, meant in suspicious_variables(environ):
        warn(f"the environment variable {name} means nothing here (did you mean {meant}?)")


def report(error: CachdError, *, as_json: bool) -> None:
    """``cachd: what happened`` and ``  next: what to do`` on stderr; with ``as_json`` an object on
    stdout as well."""
    print(f"cachd: {render.printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"  next: {render.printable(error.hint)}", file=sys.stderr)
    if error.detail.get("request_id"):
        print(f"  request: {render.printable(error.detail['request_id'])}", file=sys.stderr)
    if as_json:
        print_json({"error": error.to_wire()})
