from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kube.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    served = Cluster()
    yield served
    served.close()
