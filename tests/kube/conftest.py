from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kube.tokenserver import TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    server = TokenServer()
    yield server
    server.close()
