"""Who may do what to which URI: the pure decision."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.cache.rules import always_allows, could_allow, decide, spellings
from cachd.cache.types import Caller
from cachd.globs import matches_any
from cachd.settings import AccessRule

VERBS = ("read", "fetch", "pin", "evict", "admin")
POD = Caller(role="pod", uid=1000)
RUNNER = Caller(role="pod", uid=1000, namespace="team-a", service_account="runner")
UNPROVEN = Caller(role="pod", uid=1000, unproven="the API server is away")


def rule(name: str = "r", **fields: Any) -> AccessRule:
    return AccessRule(name=name, **fields)


def allows(
    rules: list[AccessRule], caller: Caller, verb: Any, uri: str | None, **more: Any
) -> bool:
    return decide(rules, caller, verb, uri, **more).is_allowed


@pytest.mark.parametrize(
    "tree", ["s3://b", "gs://b", "hf://o/m", "hdfs://nn:9870/a", "https://a.example/c"]
)
def test_a_directory_above_what_is_denied_is_denied(tree: str) -> None:
    rules = [rule(effect="deny", uris=[f"{tree}/secret/*"])]
    assert not allows(rules, POD, "read", tree)
    assert allows(rules, POD, "read", f"{tree}/open/m.bin")


def test_spellings_of_git_lead_past_no_rule() -> None:
    rules = [rule(uris=["git+https://h/team-a/*"], verbs=["read"])]
    asked = "git+https://h/team-a/../team-b/repo.git"
    assert not allows(rules, POD, "read", asked, default="deny")
    assert allows(rules, POD, "read", "git+https://h/team-a/repo.git", default="deny")


@pytest.mark.parametrize("default", ["allow", "deny"])
def test_another_daemon_reads_and_fetches_whatever_the_rules(default: Any) -> None:
    """Its callers are subject to its own rules; and it may do nothing else."""
    peer = Caller(role="peer")
    rules = [rule(effect="deny", uris=["s3://b/*"]), rule(name="all", verbs=list(VERBS))]
    for some in ([], rules):
        allowed = [verb for verb in VERBS if allows(some, peer, verb, "s3://b/m", default=default)]
        assert allowed == ["read", "fetch"]
        assert always_allows(some, peer, "read", default)
        assert not could_allow(some, peer, "admin", default)


def test_without_rules_reading_and_fetching_are_open_and_the_rest_is_not() -> None:
    assert [allows([], POD, verb, "s3://b/m") for verb in VERBS] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert not any(allows([], POD, verb, "s3://b/m", default="deny") for verb in VERBS)


@given(
    st.lists(
        st.builds(
            lambda effect, verbs, uris: rule(effect=effect, verbs=verbs, uris=uris),
            st.sampled_from(["allow", "deny"]),
            st.lists(st.sampled_from(VERBS)),
            st.lists(st.sampled_from(["*", "s3://b/*", "s3://c/m"])),
        ),
        max_size=5,
    ),
    st.sampled_from(VERBS),
    st.sampled_from(["allow", "deny"]),
)
def test_administrators_may_do_everything(rules: list, verb: Any, default: Any) -> None:
    assert allows(rules, Caller(role="admin"), verb, "s3://b/m", default=default)
    assert allows(rules, Caller(role="admin"), verb, None, default=default)


def test_the_first_that_matches_decides() -> None:
    rules = [
        rule("one", effect="deny", uris=["s3://b/private/*"]),
        rule("two", uris=["s3://b/*"]),
        rule("three", effect="deny"),
    ]
    for uri, name in (
        ("s3://b/private/m", "one"),
        ("s3://b/m", "two"),
        ("s3://c/m", "three"),
    ):
        assert decide(rules, POD, "read", uri).rule == name


@pytest.mark.parametrize(
    ("fields", "caller", "is_met"),
    [
        ({"uids": [1000]}, POD, True),
        ({"uids": [0]}, POD, False),
        ({"uids": [0]}, Caller(role="pod"), False),
        ({"namespaces": ["team-*"]}, RUNNER, True),
        ({"namespaces": ["team-?"]}, RUNNER, True),
        ({"namespaces": ["team"]}, RUNNER, False),
        ({"namespaces": ["*"]}, POD, False),
        ({"service_accounts": ["*/*"]}, POD, False),
        ({"service_accounts": ["team-a/run*"]}, RUNNER, True),
        ({"service_accounts": ["team-b/*"]}, RUNNER, False),
        ({"namespaces": ["team-a"], "service_accounts": ["*/other"]}, RUNNER, False),
        ({"namespaces": ["team-a"], "uids": [1]}, RUNNER, False),
    ],
)
def test_whom_a_rule_means(fields: dict, caller: Caller, is_met: bool) -> None:
    assert allows([rule(**fields)], caller, "read", "s3://b/m", default="deny") is is_met
    denies = rule(effect="deny", **fields)
    assert allows([denies], caller, "read", "s3://b/m") is not is_met


def test_verbs_that_are_not_named() -> None:
    everything = [rule()]
    assert [allows(everything, POD, verb, "s3://b/m", default="deny") for verb in VERBS] == [
        True, True, False, False, False,
    ]  # fmt: skip
    rules = [rule("no", effect="deny", uids=[1000]), rule("yes", verbs=["evict"])]
    assert not allows(rules, POD, "evict", "s3://b/m")
    assert allows(rules, Caller(role="pod", uid=7), "evict", "s3://b/m")


def test_what_concerns_no_one_model_is_in_no_uris() -> None:
    assert not allows([rule(verbs=["evict"], uris=["*"])], POD, "evict", None)
    assert allows([rule(verbs=["evict"])], POD, "evict", None)


@pytest.mark.parametrize(
    "uri",
    [
        "https://h/private/x",
        "https://h/pub/../private/x",
        "https://h/pub/%2e%2e/private/x",
        "https://h/pub/..%2Fprivate/x",
        "https://h/%70rivate/x",
        "https://h//private//x",
        "https://h/./private/x?y=1",
        "https://h/private",
        "https://h/private/",
    ],
)
def test_no_spelling_leads_round_a_rule(uri: str) -> None:
    fence = [rule(effect="deny", uris=["https://h/private*"])]
    assert not allows(fence, POD, "read", uri)
    assert not allows([rule(uris=["https://h/pub/*"])], POD, "read", uri, default="deny")


@pytest.mark.parametrize(
    "name",
    ["a%20b.bin", "ü.bin", "%C3%BC", "%c3%bc", "%ff", "[x]", "%5Bx%5D", "a+b=c@d", "~x", "%7Ex"],
)
def test_an_exact_pattern_means_its_uri(name: str) -> None:
    uri = f"https://h/{name}"
    if not name.startswith("%5B"):
        assert allows([rule(uris=[uri])], POD, "read", uri, default="deny")
    assert not allows([rule(uris=[uri])], POD, "read", "https://h/other", default="deny")
    assert not allows([rule(effect="deny", uris=[uri])], POD, "read", uri)


def test_an_escaped_slash_is_two_things_to_two_servers() -> None:
    uri = "https://h/a%2fb"
    assert not allows([rule(uris=[uri])], POD, "read", uri, default="deny")
    assert allows([rule(uris=[uri, "https://h/a/b"])], POD, "read", uri, default="deny")
    for denied in (uri, "https://h/a/b"):
        assert not allows([rule(effect="deny", uris=[denied])], POD, "read", uri)


@pytest.mark.parametrize("uri", ["s3://b", "s3://b/", "s3://b/team", "s3://b/team/private"])
def test_a_directory_above_shows_what_is_denied(uri: str) -> None:
    fence = [rule(effect="deny", uris=["s3://b/team/private/*"])]
    assert not allows(fence, POD, "read", uri)
    assert allows(fence, POD, "read", "s3://b/team/public")
    assert allows(fence, POD, "read", "s3://b/team/privat")
    assert allows(fence, POD, "read", "s3://bb")


@pytest.mark.parametrize(
    ("pattern", "uri"),
    [
        ("s3://b/secret.bin", "s3://b/secret.bin?versionId=null"),
        ("https://host/secret.bin", "https://host/secret.bin?x=1"),
        ("https://host/secret.bin", "https://host./secret.bin"),
        ("https://host:8443/secret/*", "https://host.:8443/secret/x"),
    ],
)
def test_neither_a_query_nor_a_last_dot_leads_round_what_is_denied(pattern: str, uri: str) -> None:
    assert not allows([rule(effect="deny", uris=[pattern])], POD, "read", uri)
    fence = [rule(effect="allow", uris=[pattern.rstrip("*")])]
    assert not allows(fence, POD, "read", uri, default="deny")


def test_what_is_not_known_of_a_caller_is_asked_for_only_where_it_matters() -> None:
    same = [rule("a", namespaces=["x"]), rule("b")]
    assert decide(same, UNPROVEN, "read", "s3://b/m").is_allowed
    differs = [rule("a", effect="deny", namespaces=["x"]), rule("b")]
    found = decide(differs, UNPROVEN, "read", "s3://b/m")
    assert (found.is_allowed, found.is_unknown) == (False, True)
    lends = [rule("a", namespaces=["x"], identity=True), rule("b")]
    assert decide(lends, UNPROVEN, "read", "s3://b/m").is_unknown
    elsewhere = [rule("a", effect="deny", namespaces=["x"], uris=["s3://c/*"])]
    assert decide(elsewhere, UNPROVEN, "read", "s3://b/m").is_allowed


_URIS = ["s3://b/m", "s3://b/n", "https://h/x", "s3://c/m"]
_RULES = st.lists(
    st.builds(
        lambda **fields: rule(**fields),
        effect=st.sampled_from(["allow", "deny"]),
        uids=st.lists(st.sampled_from([0, 1000]), max_size=1),
        namespaces=st.lists(st.sampled_from(["team-a", "x*"]), max_size=1),
        verbs=st.lists(st.sampled_from(VERBS), max_size=2),
        uris=st.lists(st.sampled_from(["*", "s3://b/*", "https://*", "s3://c/m"]), max_size=2),
    ),
    max_size=6,
)


@given(_RULES, st.sampled_from([POD, RUNNER, UNPROVEN]), st.sampled_from(VERBS),
       st.sampled_from(["allow", "deny"]))  # fmt: skip
def test_what_may_be_said_without_the_uri(
    rules: list, caller: Caller, verb: Any, default: Any
) -> None:
    found = [decide(rules, caller, verb, uri, default).is_allowed for uri in [*_URIS, None]]
    if any(found):
        assert could_allow(rules, caller, verb, default)
    if always_allows(rules, caller, verb, default):
        assert all(found)


@given(_RULES, st.sampled_from(VERBS), st.sampled_from(_URIS))
def test_an_unknown_caller_is_given_what_anybody_would_be(rules: list, verb: Any, uri: str) -> None:
    unknown = decide(rules, UNPROVEN, verb, uri)
    known = [
        decide(rules, caller, verb, uri)
        for caller in (
            POD,
            RUNNER,
            Caller(role="pod", uid=1000, namespace="xy", service_account="s"),
        )
    ]
    if unknown.is_allowed:
        assert all(decision.is_allowed for decision in known)


@given(st.text("ab*?[.", max_size=8), st.text("ab[.", max_size=10))
def test_patterns_mean_what_a_regular_expression_would(pattern: str, text: str) -> None:
    words = {"*": ".*", "?": "."}
    expression = "".join(words.get(c) or re.escape(c) for c in pattern)
    assert matches_any([pattern], text) == bool(re.fullmatch(expression, text, re.DOTALL))


def test_no_uri_makes_a_pattern_take_ages() -> None:
    started = time.process_time()
    assert not matches_any(["s3://*a*a*a*a*a*a*a*a*a*a*b"], "s3://" + "a" * 8000)
    assert time.process_time() - started < 5


def test_spellings_of_what_is_plain() -> None:
    assert spellings("s3://b/a%2fb/../c") == ("s3://b/a%2fb/../c",)
    assert spellings("https://h/a/b?x=../y") == ("https://h/a/b?x=../y",)
    assert spellings("https://h") == ("https://h", "https://h/")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"effect": "maybe"},
        {"verbs": ["write"]},
        {"service_accounts": ["runner"]},
        {"effect": "deny", "identity": True},
        {"effect": "deny", "open_hits": True},
        {"uids": [-1]},
        {"urls": ["*"]},
    ],
)
def test_rules_that_make_no_sense(fields: dict) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        AccessRule(**{"name": "r", **fields})
