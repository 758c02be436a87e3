"""What an upstream must say of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cachd.settings import UpstreamSettings

TOKEN = Path("/run/token")


def test_endpoints_are_https_and_have_a_token() -> None:
    made = UpstreamSettings(
        endpoints=("https://a:1/", "https://a:1", "https://b"), token_file=TOKEN
    )
    assert made.endpoints == ("https://a:1", "https://b")
    assert UpstreamSettings(endpoints=("http://a",), token_file=TOKEN, allow_http=True).endpoints


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"endpoints": ("http://a",), "token_file": TOKEN}, "allow_http"),
        ({"endpoints": ("https://a",)}, "token_file"),
        ({"endpoints": ("https://a/v1",), "token_file": TOKEN}, "looks like"),
        ({"endpoints": ("https://user@a",), "token_file": TOKEN}, "looks like"),
        ({"only": True}, "endpoints"),
    ],
)
def test_what_is_wrong_is_said(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        UpstreamSettings(**wrong)
