from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unpack.archives import Unpacking

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def unpacking(tmp_path: Path) -> Unpacking:
    return Unpacking(tmp_path / "work")
