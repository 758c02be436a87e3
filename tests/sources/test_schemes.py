"""Whose a URI is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.metadata import MAX_PROPERTIES, MAX_TEXT, METADATA, tidy
from cachd.schemes import scheme_of, source_of
from cachd.sources.registry import split_scheme


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("s3://b/m", "s3"),
        ("cachd+s3://b/m", "s3"),
        ("S3://b/m", "s3"),
        ("/local/path", ""),
        ("model-registry://m/1", "model-registry"),
        ("models:/m/1", "models"),
        ("models://m/1", "models"),
        ("https://host/model.tar.gz", "https"),
        ("https://acct.blob.core.windows.net/c/p", "azure"),
        ("https://acct.z20.blob.storage.azure.net/c/p", "azure"),
        ("https://acct.file.core.windows.net/share/dir", "azure"),
        ("cachd+https://ACCT.BLOB.core.windows.net/c/p", "azure"),
        ("https://evil.example/acct.blob.core.windows.net/c", "https"),
        ("https://evil.example/?x=acct.blob.core.windows.net/c", "https"),
        ("https://acct.blob.core.windows.net.evil.example/c", "https"),
        ("https://host/owner/repo.git", "git"),
        ("https://host/owner/repo.git@v1/sub", "git"),
        ("https://host/model.gitter", "https"),
        ("https://host/m?x=repo.git", "https"),
    ],
)
def test_whose_a_uri_is(uri: str, source: str) -> None:
    assert source_of(uri) == source


def test_mlflows_own_way_of_writing() -> None:
    assert split_scheme("models:/name/1") == ("models", "models://name/1")
    assert split_scheme("cachd+models://name/1") == ("models", "models://name/1")


@given(st.text(max_size=60))
def test_any_text_has_some_source(text: str) -> None:
    assert isinstance(source_of(text), str)
    assert scheme_of(text) == scheme_of(text).lower()


def test_metadata_is_tidied() -> None:
    found = tidy(
        {
            "name": "llama",
            "author": None,
            "description": "a\x1b[31mb\nc" + "x" * 2 * MAX_TEXT,
            "unknown": "no",
            **{f"property.{i}": str(i) for i in range(2 * MAX_PROPERTIES)},
        }
    )
    assert found["name"] == "llama"
    assert "author" not in found
    assert "unknown" not in found
    assert found["description"].startswith("a\ufffd[31mb\nc")
    assert len(found["description"]) == MAX_TEXT
    assert len(found) == MAX_PROPERTIES + 2


@given(st.dictionaries(st.sampled_from([*METADATA, "property.é\ud800", "x"]), st.text()))
def test_tidied_metadata_is_text_that_can_be_written(found: dict[str, str]) -> None:
    for name, value in tidy(found).items():
        assert f"{name}={value}".encode()
        assert value
