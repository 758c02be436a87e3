from __future__ import annotations

import os

import pytest
import pytest_asyncio

from tests.sources.asking import OPEN


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No AWS identity, no proxy, no instance metadata, whatever the machine has."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest_asyncio.fixture(autouse=True)
async def _closed_sources():
    """What a test's sources keep open is closed on the test's own loop."""
    yield
    while OPEN:
        await OPEN.pop().aclose()
