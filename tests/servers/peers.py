"""Clients and servers of other makes, which run as processes: they live in a venv of their own,
which ``make test`` sets up."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.require import missing

_HERE = Path(__file__).resolve().parents[2]


def peer_python() -> str:
    """The Python that has them. Skips, or fails where everything must be there."""
    given = os.environ.get("CACHD_TEST_PEERS")
    place = Path(given) if given else _HERE / ".venv-peers"
    python = place / "bin" / "python"
    if not python.exists():
        missing("the venv of peers (make .venv-peers/.stamp)")
    return str(python)


def peer_program(name: str) -> str:
    """One of its programs."""
    return str(Path(peer_python()).with_name(name))
