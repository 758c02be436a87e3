"""``modelscope://``: private repositories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from tests.contract.adapter import Adapter, Pass
from tests.contract.hub import Hub, by_token
from tests.servers.modelscope import ModelScope as Server


class ModelScopes(Hub):
    name = "modelscope"
    data = "/repo?"
    closed: ClassVar[Mapping[str, object]] = {"private": True}
    passes: ClassVar[Mapping[str, Pass]] = by_token(
        "ms-good-5772", "ms-wrong-6931", "ms-poor-1644", "without a token"
    )


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return ModelScopes(Server())
