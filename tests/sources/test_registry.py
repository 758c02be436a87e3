from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

import pytest

from cachd.errors import SchemeUnknown, UriInvalid
from cachd.sources.registry import GROUP, Registry, split_scheme
from cachd.sources.s3 import S3Source


class OtherSource:
    schemes = ("other",)


@pytest.mark.parametrize(
    ("uri", "scheme", "plain"),
    [
        ("s3://b/k", "s3", "s3://b/k"),
        ("S3://B/k", "s3", "s3://B/k"),
        ("cachd+s3://b/k", "s3", "s3://b/k"),
        ("CACHD+https://h/k", "https", "https://h/k"),
    ],
)
def test_schemes(uri: str, scheme: str, plain: str) -> None:
    assert split_scheme(uri) == (scheme, plain)


@pytest.mark.parametrize(
    "uri", ["", " ", "model", "/mnt/models", "s3:/b/k", "://x", "s3://b/\n", "s3://b/\0", "1a://x",
            "s3://" + "x" * 9000, "s3://b/\ud800"]
)  # fmt: skip
def test_no_uris(uri: str) -> None:
    with pytest.raises(UriInvalid) as caught:
        split_scheme(uri)
    assert caught.value.field == "uri"


def test_an_unknown_scheme_lists_the_known() -> None:
    with pytest.raises(SchemeUnknown, match="http://, https://") as caught:
        Registry(()).source("ftp")
    assert "ftp://" in caught.value.message
    assert GROUP in caught.value.hint


def test_a_third_party_adds_a_scheme() -> None:
    point = EntryPoint("other", f"{__name__}:OtherSource", GROUP)
    registry = Registry([point])
    assert "other" in registry.schemes
    assert registry.source("other").schemes == ("other",)
    assert registry.source("other") is registry.source("other")


def test_a_third_party_cannot_take_a_built_in_scheme() -> None:
    registry = Registry([EntryPoint("s3", f"{__name__}:OtherSource", GROUP)])
    assert isinstance(registry.source("s3"), S3Source)


class BrokenSource:
    def __init__(self) -> None:
        raise RuntimeError("out of order")


def test_a_third_party_whose_library_is_missing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry([EntryPoint("needy", "no_such_sdk.source:Thing", GROUP)])
    for _ in range(2):
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(SchemeUnknown, match="No module named 'no_such_sdk'") as caught,
        ):
            registry.source("needy")
        assert "install no_such_sdk where the daemon runs" in caught.value.hint
    assert "no_such_sdk" in caplog.text
    assert "needy" in registry.schemes


def test_a_broken_third_party_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry([EntryPoint("broken", f"{__name__}:BrokenSource", GROUP)])
    with caplog.at_level(logging.ERROR), pytest.raises(SchemeUnknown):
        registry.source("broken")
    assert "out of order" in caplog.text
    assert "broken" not in registry.schemes
    assert isinstance(registry.source("s3"), S3Source)
