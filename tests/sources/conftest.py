from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import pytest_asyncio

from tests.servers.azurefiles import FakeFiles
from tests.servers.gcs import FakeGcs
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


@pytest.fixture(scope="module")
def own_gcs() -> Iterator[FakeGcs]:
    served = FakeGcs()
    yield served
    served.stop()


@pytest.fixture
def gcs(own_gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> FakeGcs:
    """The server as it is at first, named by the environment."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GCE_METADATA_HOST", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", own_gcs.endpoint)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    own_gcs.buckets.clear()
    own_gcs.versions.clear()
    for each in (own_gcs.private, own_gcs.strangers, own_gcs.seen, own_gcs.exchanges):
        each.clear()
    own_gcs.refusals.clear()
    own_gcs.page, own_gcs.token_life = 1000, 3600
    return own_gcs


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFiles]:
    for name in ("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    server = FakeFiles()
    yield server
    server.stop()
