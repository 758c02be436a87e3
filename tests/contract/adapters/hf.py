"""``hf://``: repositories that all may list and some may read, as gated ones are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from tests.contract.adapter import Adapter, Pass
from tests.contract.hub import Hub, by_token
from tests.servers.hub import Hub as Server


class HuggingFace(Hub):
    name = "hf"
    data = "/resolve/"
    closed: ClassVar[Mapping[str, object]] = {"gated": True}
    passes: ClassVar[Mapping[str, Pass]] = by_token(
        "hf_good_5772", "hf_wrong_6931", "hf_poor_1644", "a caller without a token"
    )


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return HuggingFace(Server())
