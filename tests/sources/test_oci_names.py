"""References, docker configs, challenges: what is read, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cachd.credentials import SourceOptions
from cachd.docker_config import Login, gather_logins, parse_logins
from cachd.errors import UriInvalid
from cachd.sources.oci import OciSource
from cachd.sources.oci_client import Challenge, parse_challenges
from tests.sources.asking import settings

HEX = "0123456789abcdef" * 4


def locate(uri: str, options: SourceOptions = SourceOptions(), **fields: Any) -> Any:
    return OciSource().locate(uri, options, settings(oci=fields), {})


@pytest.mark.parametrize(
    ("uri", "canonical", "origin"),
    [
        ("oci://r.example/a/b:v1", "", "https://r.example"),
        ("oci://R.Example:5000/a", "oci://r.example:5000/a", "https://r.example:5000"),
        ("oci://r.example:443/a", "", "https://r.example"),
        ("oci://localhost/a", "", "https://localhost"),
        ("oci://[::1]:5000/a", "", "https://[::1]:5000"),
        (f"oci://r.example/a@sha256:{HEX}", "", "https://r.example"),
        (f"oci://r.example/a:v1@sha256:{HEX}", "", "https://r.example"),
        ("oci://docker.io/library/x", "", "https://registry-1.docker.io"),
        ("oci://index.docker.io/a/x:1", "oci://docker.io/a/x:1", "https://registry-1.docker.io"),
        ("oci+native://r.example/a:v1", "oci://r.example/a:v1", "https://r.example"),
        ("oci+fetch://r.example/a:v1", "oci://r.example/a:v1", "https://r.example"),
        ("oci://r.example/a__b/c--d.e", "", "https://r.example"),
    ],
)
def test_references(uri: str, canonical: str, origin: str) -> None:
    found = locate(uri)
    assert found.uri == (canonical or uri)
    assert (found.scheme, found.origin) == ("oci", f"oci+{origin}")
    assert found.is_default_origin


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("oci://", "no repository"),
        ("oci://r.example", "no repository"),
        ("oci://r.example/", "no repository"),
        ("oci://r.example/A", "repository is not valid"),
        ("oci://r.example/a//b", "repository is not valid"),
        ("oci://r.example/../b", "repository is not valid"),
        ("oci://r.example/" + "a" * 300, "repository is not valid"),
        ("oci://r.example/a:", "tag is not valid"),
        ("oci://r.example/a:b/c", "tag is not valid"),
        ("oci://r.example/a@", "digest is not valid"),
        ("oci://r.example/a@sha256:12", "digest is not valid"),
        (f"oci://r.example/a@sha512:{HEX}{HEX}", "no sha256"),
        (f"oci://r.example/a@sha256:{HEX.upper()}", "no sha256"),
        ("oci://r.example/a?x=y", "query"),
        ("oci://user:sesame@r.example/a", "user information"),
        ("oci://r.example:0/a", "registry is no valid host"),
        ("oci://r.example:99999/a", "registry is no valid host"),
        ("oci://r_x.example/a", "registry is no valid host"),
        ("oci://rhuss/sklearn:1.0", "names no registry"),
        ("oci://docker.io/x", "has a namespace"),
    ],
)
def test_references_that_are_refused(uri: str, says: str) -> None:
    with pytest.raises(UriInvalid, match=says) as caught:
        locate(uri)
    assert caught.value.hint
    assert "sesame" not in f"{caught.value} {caught.value.hint}"


def test_what_is_meant_is_told() -> None:
    with pytest.raises(UriInvalid) as caught:
        locate("oci://rhuss/sklearn:1.0")
    assert "oci://docker.io/rhuss/sklearn" in caught.value.hint
    with pytest.raises(UriInvalid) as caught:
        locate("oci://docker.io/x")
    assert "oci://docker.io/library/x" in caught.value.hint


def test_a_registry_without_tls_is_another_origin() -> None:
    uri = "oci://r.example:5000/a"
    assert locate(uri, plain_http=["R.example:5000"]).origin == "oci+http://r.example:5000"
    assert locate(uri, plain_http=["r.example:5000"]).is_default_origin
    asked = locate(uri, SourceOptions(plain_http=True))
    assert (asked.origin, asked.is_default_origin) == ("oci+http://r.example:5000", False)
    other = locate(uri, SourceOptions(plain_http=False), plain_http=["r.example:5000"])
    assert (other.origin, other.is_default_origin) == ("oci+https://r.example:5000", False)


# --- docker configs -------------------------------------------------------------------------------


def pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("r.example", "r.example"),
        ("R.example:5000", "r.example:5000"),
        ("https://r.example", "r.example"),
        ("https://r.example/v2/", "r.example"),
        ("http://r.example:5000/v1/", "r.example:5000"),
        ("r.example/v1", "r.example"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_keys_of_a_docker_config(key: str, registry: str) -> None:
    logins = parse_logins(json.dumps({"auths": {key: {"auth": pair("u:p:w")}}}), "here")
    assert logins.find(registry, "a/b") == Login(username="u", password="p:w", where="here")
    assert logins.find("other.example", "a/b") is None
    assert logins.find(f"x{registry}", "a/b") is None


def test_the_most_specific_entry_wins() -> None:
    keys = ["r.example", "r.example/team", "r.example/team/m"]
    text = json.dumps({"auths": {key: {"auth": pair(f"u:{key}")} for key in keys}})
    found = parse_logins(text, "")
    for repository, key in (("team/m", keys[2]), ("team/n", keys[1]), ("teams/m", keys[0])):
        login = found.find("r.example", repository)
        assert login is not None
        assert login.password == key
    assert [host for host, _ in found.hosts()] == ["r.example"]


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"username": "u", "password": "p"}, ("u", "p", "")),
        ({"auth": pair("u:p"), "username": "x", "password": "y"}, ("u", "p", "")),
        ({"auth": pair("u:p\0\0")}, ("u", "p", "")),
        ({"auth": pair("u:p"), "identitytoken": "t"}, ("<token>", "t", "")),
        ({"registrytoken": "t"}, ("", "", "t")),
    ],
)
def test_entries_of_a_docker_config(entry: dict[str, str], login: tuple[str, str, str]) -> None:
    found = parse_logins(json.dumps({"auths": {"r.example": entry}}), "").find("r.example")
    assert found is not None
    assert (found.username, found.password, found.token) == login
    assert "'p'" not in repr(found)


@pytest.mark.parametrize(
    "entry", [{}, {"auth": ""}, {"auth": "%%"}, {"auth": pair("no colon")}, {"username": "u"}, 5]
)
def test_entries_that_say_nothing(entry: Any) -> None:
    assert parse_logins(json.dumps({"auths": {"r.example": entry}}), "").find("r.example") is None


def test_the_older_file_and_helpers() -> None:
    old = parse_logins(json.dumps({"r.example": {"auth": pair("u:p")}}), "")
    assert old.find("r.example") is not None
    helped = parse_logins(
        json.dumps({"credHelpers": {"r.example": "gcr"}, "credsStore": "desktop"}), ""
    )
    assert helped.find("r.example") is None
    assert helped.helper_for("r.example") == "gcr"
    assert helped.helper_for("other.example") == "desktop"
    assert parse_logins("{}", "").helper_for("r.example") == ""


@pytest.mark.parametrize("text", ["", "[]", "nonsense-secret", '{"auths": []}', "[" * 100_000])
def test_files_that_are_no_docker_config(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has)") as caught:
        parse_logins(text, "")
    assert "secret" not in str(caught.value)


def test_where_logins_are_looked_for() -> None:
    files = {
        "/k/config.json": "{}",
        "/d/config.json": json.dumps({"auths": {"d.example": {"auth": pair("d:p")}}}),
        "/h/.docker/config.json": json.dumps({"auths": {"h.example": {"auth": pair("h:p")}}}),
    }

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path]

    environ = {
        "KSERVE_OCI_DOCKER_CONFIG": "/k/config.json",
        "REGISTRY_AUTH_FILE": "/gone.json",
        "DOCKER_CONFIG": "/d",
        "HOME": "/h",
    }
    found, faults = gather_logins(environ, read)
    names = [host for logins in found for host, _ in logins.hosts()]
    assert names == ["d.example", "h.example"]
    assert faults == ["can't read /gone.json (REGISTRY_AUTH_FILE): No such file or directory"]
    assert gather_logins({"HOME": "/nobody"}, read) == ([], [])


# --- challenges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("Negotiate", []),
        ("Basic", [Challenge(scheme="basic")]),
        ('Basic realm="x"', [Challenge(scheme="basic", realm="x")]),
        (
            'Bearer realm="https://a.example/t",service="r",scope="repository:a/b:pull,push"',
            [
                Challenge(
                    scheme="bearer",
                    realm="https://a.example/t",
                    service="r",
                    scope="repository:a/b:pull,push",
                )
            ],
        ),
        (
            'bearer realm=https://a.example/t, service=r, Basic realm="x"',
            [
                Challenge(scheme="bearer", realm="https://a.example/t", service="r"),
                Challenge(scheme="basic", realm="x"),
            ],
        ),
    ],
)
def test_challenges(line: str, found: list[Challenge]) -> None:
    assert parse_challenges({"WWW-Authenticate": line}) == found
