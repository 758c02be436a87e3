"""What a URL's query proves is no part of its name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.sources.http_rules import join_secret, split_secret

BASE = "https://h/m.bin"


@pytest.mark.parametrize(
    ("query", "plain", "secret"),
    [
        ("", "", ""),
        ("path=/x/m.zip&v=2", "path=/x/m.zip&v=2", ""),
        ("expires=never&policy=open&sig=a", "expires=never&policy=open&sig=a", ""),
        (
            "v=2&X-Amz-Algorithm=A&X-Amz-Signature=s&versionId=7",
            "v=2&versionId=7",
            "X-Amz-Algorithm=A&X-Amz-Signature=s",
        ),
        ("AWSAccessKeyId=k&Expires=1&Signature=s", "", "AWSAccessKeyId=k&Expires=1&Signature=s"),
        ("Expires=1&Signature=s&Key-Pair-Id=k", "", "Expires=1&Signature=s&Key-Pair-Id=k"),
        ("sv=1&se=2&sig=s&comp=x", "comp=x", "sv=1&se=2&sig=s"),
        ("GoogleAccessId=g&Expires=1&Signature=s", "", "GoogleAccessId=g&Expires=1&Signature=s"),
        ("download=1&token=t", "download=1", "token=t"),
    ],
)
def test_the_signature_is_taken_out(query: str, plain: str, secret: str) -> None:
    url = f"{BASE}?{query}" if query else BASE
    assert split_secret(url) == (f"{BASE}?{plain}" if plain else BASE, secret)


NAMES = st.sampled_from(["v", "sig", "sv", "X-Amz-Signature", "token", "Expires", "Signature"])
PAIRS = st.lists(st.tuples(NAMES, st.text("ab%2F", max_size=4)), max_size=6)


@given(PAIRS)
def test_joined_again_it_asks_the_same(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{name}={value}" for name, value in pairs)
    url, secret = split_secret(f"{BASE}?{query}" if query else BASE)
    again = join_secret(url, secret).partition("?")[2]
    assert sorted(filter(None, again.split("&"))) == sorted(filter(None, query.split("&")))
    assert split_secret(url) == (url, "")
