from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kube.apiserver import ApiServer
from tests.kube.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    served = Cluster()
    yield served
    served.close()
