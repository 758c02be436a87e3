from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.modelregistry import ModelRegistry


@pytest.fixture
def registry() -> Iterator[ModelRegistry]:
    made = ModelRegistry()
    yield made
    made.close()


@pytest.fixture
def other_registry() -> Iterator[ModelRegistry]:
    made = ModelRegistry()
    yield made
    made.close()
