"""What ``hf://`` and ``modelscope://`` URIs mean, and where they lead."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.credentials import SourceOptions
from cachd.errors import UriInvalid
from cachd.settings import SourcesSettings
from cachd.sources.hub_uri import parse_hub
from cachd.sources.rate_limit import seconds_to_wait
from cachd.sources.registry import Registry
from tests.sources.asking import settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("uri", "repo", "revision", "path", "canonical"),
    [
        ("hf://org/m", "org/m", "", "", ""),
        ("hf://org/m/", "org/m", "", "", "hf://org/m"),
        ("hf://org/m:v1.0", "org/m", "v1.0", "", ""),
        ("hf://org/m:v1.0/", "org/m", "v1.0", "", "hf://org/m:v1.0"),
        (f"hf://org/m:{COMMIT}/a/b.bin", "org/m", COMMIT, "a/b.bin", ""),
        ("hf://org/m/a/b:c.bin", "org/m", "", "a/b:c.bin", ""),
        ("hf://org/m/a?b=c#d", "org/m", "", "a?b=c#d", ""),
        ("hf://org/m:refs/pr/12", "org/m", "refs/pr/12", "", ""),
        ("hf://org/m:refs/pr/12/a", "org/m", "refs/pr/12", "a", ""),
        ("hf://org/m:refs/convert/parquet/a", "org/m", "refs/convert/parquet", "a", ""),
        ("hf://org/m:a%2fb/c", "org/m", "a/b", "c", "hf://org/m:a%2Fb/c"),
        ("hf://org/m:refs/prx", "org/m", "refs", "prx", ""),
        ("hf://datasets/org/d:v1/x", "org/d", "v1", "x", ""),
        ("hf://datasets/m", "datasets/m", "", "", ""),
        ("modelscope://org/m--x:v1/x", "org/m--x", "v1", "x", ""),
    ],
)
def test_forms(uri: str, repo: str, revision: str, path: str, canonical: str) -> None:
    address = parse_hub(uri)
    assert (address.repo, address.revision, address.path) == (repo, revision, path)
    assert address.uri == (canonical or uri)
    assert parse_hub(address.uri) == address
    assert address.is_commit == (revision == COMMIT)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("", "Invalid Hugging Face URI format"),
        ("/", "Invalid Hugging Face URI format"),
        ("repo_only", "Invalid Hugging Face URI format. Expected 'hf://owner/model"),
        ("/m", "the repository owner cannot be empty"),
        ("repo/", "the model name cannot be empty"),
        ("repo/:h", "the model name cannot be empty"),
        ("org/m:", "the revision cannot be empty"),
        ("org/m:/a", "the revision cannot be empty"),
        ("or g/m", "can't be an owner"),
        ("user:word@org/m", "user information"),
        ("user:word@org", "user information"),
        ("org/m?x=1", "can't be a model name"),
        ("org/..", "can't be a model name"),
        ("org/a--b", "can't be a model name"),
        ("org/" + "m" * 97, "can't be a model name"),
        ("org/m:a..b", "can't be a revision"),
        ("org/m:a b", "can't be a revision"),
        ("org/m:a%2F", "can't be a revision"),
        ("org/m:-x", "can't be a revision"),
        ("org/m/a//b", "empty part"),
        ("org/m/../b", "'..'"),
        ("org/m:v1/./b", "'.'"),
    ],
)
def test_what_is_none(rest: str, words: str) -> None:
    with pytest.raises(UriInvalid) as caught:
        parse_hub(f"hf://{rest}")
    assert words in caught.value.message
    assert caught.value.field == "uri"
    assert "word" not in str(caught.value.to_wire())
    if "--" not in rest:
        with pytest.raises(UriInvalid):
            parse_hub(f"modelscope://{rest}")


@hypothesis.settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_an_address_or_a_fault(text: str) -> None:
    for scheme in ("hf", "modelscope"):
        try:
            address = parse_hub(f"{scheme}://{text}")
        except UriInvalid:
            continue
        assert parse_hub(address.uri) == address


@pytest.mark.parametrize(
    ("scheme", "environ", "given_settings", "endpoint", "origin", "is_default"),
    [
        ("hf", {}, {}, None, "https://huggingface.co", True),
        ("hf", {"HF_ENDPOINT": "https://hf-mirror.com/"}, {}, None, "https://hf-mirror.com", True),
        ("hf", {"HF_ENDPOINT": "http://a"}, {"endpoint": "http://b"}, None, "http://b", True),
        ("hf", {}, {}, "http://C.example:80/api/hf/", "http://c.example/api/hf", False),
        ("hf", {}, {}, "huggingface.co", "https://huggingface.co", True),
        ("modelscope", {}, {}, None, "https://www.modelscope.cn", True),
        ("modelscope", {"MODELSCOPE_DOMAIN": "a.cn"}, {}, None, "https://a.cn", True),
        ("modelscope", {"MODELSCOPE_ENDPOINT": "http://b", "MODELSCOPE_DOMAIN": "a"}, {}, None,
         "http://b", True),
    ],
)  # fmt: skip
def test_where_it_leads(
    scheme: str,
    environ: dict[str, str],
    given_settings: dict[str, str],
    endpoint: str | None,
    origin: str,
    is_default: bool,
) -> None:
    source = Registry().source(scheme)
    chosen: SourcesSettings = settings(**{scheme: given_settings})
    options = SourceOptions(endpoint=endpoint, region="r", accelerate=True)
    location = source.locate(f"{scheme}://org/m/", options, chosen, environ)
    assert location.origin == f"{scheme}+{origin}"
    assert location.is_default_origin == is_default
    assert location.uri == f"{scheme}://org/m"
    assert location.options == SourceOptions(endpoint=origin)


@pytest.mark.parametrize("endpoint", ["ftp://a", "https://u:p@a", "https://a?b=c", "https://"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    source = Registry().source("hf")
    with pytest.raises(UriInvalid) as caught:
        source.locate("hf://org/m", SourceOptions(endpoint=endpoint), SourcesSettings(), {})
    assert caught.value.field == "options.endpoint"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ('"api";r=0;t=55', 55),
        ('"api"; r=0; t=55', 55),
        ('"api";r=7;t=55', None),
        ('"api";r=0;t=5, "pages";r=0;t=90, "resolvers";r=1;t=300', 90),
        ('"api";t=9;r=0', 9),
        ('"api";r=0', None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_rate_limits(header: str, seconds: float | None) -> None:
    assert seconds_to_wait({"ratelimit": header}) == seconds
