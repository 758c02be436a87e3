"""What goes along for git over http(s): KServe's ``GIT_USERNAME`` and ``GIT_PASSWORD``. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.cli.forward_values import Forwarded

if TYPE_CHECKING:
    from collections.abc import Mapping


def gather_git(environ: Mapping[str, str]) -> Forwarded:
    """They go to the host of the URI. A user in the URI beats the variable, in the daemon."""
    variables = (("username", "GIT_USERNAME"), ("password", "GIT_PASSWORD"))
    found = {name: environ[variable] for name, variable in variables if environ.get(variable)}
    return Forwarded(credentials=found)
