from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, running
from tests.kube.tokenserver import TokenServer


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose freshness is short: every ask looks at the source."""
    with running(tmp_path, FRESHNESS_INTERVAL="0") as one:
        yield one


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[object]:
    """Makes daemons that are closed at the end."""
    made: list[Daemon] = []

    def make(name: str = "one", **settings: str) -> Daemon:
        daemon = Daemon(tmp_path / name, settings=settings)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture
def make_ruled(tmp_path: Path) -> Iterator[object]:
    """Makes daemons with rules; they are closed at the end."""
    made: list[Daemon] = []

    def build(*rules: dict[str, Any], tokens: TokenServer | None = None, **settings: str) -> Daemon:
        settings.setdefault("FRESHNESS_INTERVAL", "3600")
        environ = tokens.environ(tmp_path) if tokens else {}
        if rules:
            settings["ACCESS_RULES"] = json.dumps(rules)
        daemon = Daemon(tmp_path / f"d{len(made)}", settings=settings, environ=environ)
        made.append(daemon)
        return daemon.start()

    yield build
    for daemon in made:
        daemon.close()
