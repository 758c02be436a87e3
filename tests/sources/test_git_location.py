"""What git's URIs mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.credentials import SourceOptions
from cachd.errors import UriInvalid
from cachd.settings import SourcesSettings
from cachd.sources.git import GitSource
from cachd.sources.git_location import parse
from cachd.sources.registry import Registry, split_scheme

REPO = "https://host/o/repo.git"
COMMIT = "0123456789abcdef0123456789ABCDEF01234567"


@pytest.mark.parametrize(
    ("uri", "canonical", "repository", "ref", "path"),
    [
        (REPO, REPO, REPO, "", ""),
        ("https://HOST:443/o/repo.git/", REPO, REPO, "", ""),
        (f"git+{REPO}", REPO, REPO, "", ""),
        (f"{REPO}@v1", f"{REPO}@v1", REPO, "v1", ""),
        (f"{REPO}@v1/sub/dir/", f"{REPO}@v1/sub/dir", REPO, "v1", "sub/dir"),
        (f"{REPO}/sub/a%20b@c", f"{REPO}/sub/a%20b%40c", REPO, "", "sub/a b@c"),
        (f"{REPO}@feature%2Fx/sub", f"{REPO}@feature%2Fx/sub", REPO, "feature/x", "sub"),
        (f"{REPO}?ref=feature/x&path=/sub/", f"{REPO}@feature%2Fx/sub", REPO, "feature/x", "sub"),
        (f"{REPO}@v1?path=sub", f"{REPO}@v1/sub", REPO, "v1", "sub"),
        (f"{REPO}@v1?ref=v1", f"{REPO}@v1", REPO, "v1", ""),
        (f"{REPO}@{COMMIT}", f"{REPO}@{COMMIT}", REPO, COMMIT, ""),
        ("https://me:secret@host/o/repo.git", REPO, REPO, "", ""),
        ("http://host:8080/repo.git", "http://host:8080/repo.git", "http://host:8080/repo.git",
         "", ""),
        ("git+https://host/o/repo", "git+https://host/o/repo", "https://host/o/repo", "", ""),
        ("git+https://host/o/repo@v1/sub", "git+https://host/o/repo@v1/sub", "https://host/o/repo",
         "v1", "sub"),
        ("git+https://host/o/repo?path=sub", "git+https://host/o/repo?path=sub",
         "https://host/o/repo", "", "sub"),
        ("https://host/a.git/b.git", "https://host/a.git/b.git", "https://host/a.git", "",
         "b.git"),
    ],
)  # fmt: skip
def test_what_a_uri_means(uri: str, canonical: str, repository: str, ref: str, path: str) -> None:
    found = parse(uri)
    assert (found.uri, found.repository, found.ref, found.path) == (
        canonical, repository, ref, path,
    )  # fmt: skip
    assert (parse(canonical).uri, parse(canonical).ref, parse(canonical).path) == (
        canonical, ref, path,
    )  # fmt: skip
    registry = Registry(())
    assert isinstance(registry.source(registry.name_of(split_scheme(uri)[1])), GitSource)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("git://host/repo.git", "git:// isn't spoken"),
        ("git+https://host/", "no repository"),
        ("git+https://host", "no repository"),
        (f"{REPO}@", "no ref after the @"),
        (f"{REPO}@/sub", "no ref after the @"),
        (f"{REPO}@v1?ref=v2", "two refs"),
        (f"{REPO}/a?path=b", "two paths"),
        (f"{REPO}?depth=1", "more than ref and path"),
        (f"{REPO}?ref=a&ref=b", "more than ref and path"),
        (f"{REPO}?ref=", "empty ref"),
        (f"{REPO}#main", "fragment"),
        (f"{REPO}@a..b", "can't be one"),
        (f"{REPO}@a%0Ab", "can't be one"),
        (f"{REPO}/a/../b", r"'\.\.'"),
        (f"{REPO}/%FF", "UTF-8"),
    ],
)
def test_what_no_uri_means(uri: str, says: str) -> None:
    with pytest.raises(UriInvalid, match=says) as caught:
        parse(uri)
    assert caught.value.field == "uri"


def test_a_user_in_the_url_is_the_callers_and_its_password_nobodys() -> None:
    def locate(uri: str) -> object:
        found = GitSource().locate(uri, SourceOptions(endpoint="x"), SourcesSettings(), {})
        assert "secret" not in repr(found)
        assert (found.uri, found.origin, found.options.endpoint) == (REPO, "git+https://host", None)
        return found.secret_query

    assert locate("https://to%26ken:secret@host/o/repo.git") == "username=to%26ken"
    assert locate(REPO) == ""


@given(st.text(max_size=40))
def test_any_text_has_a_meaning_or_an_error(text: str) -> None:
    for uri in (f"git+https://{text}", f"{REPO}{text}", f"{REPO}@{text}"):
        try:
            found = parse(uri)
        except UriInvalid:
            continue
        assert parse(found.uri).uri == found.uri
        assert "\n" not in found.ref
