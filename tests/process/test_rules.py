"""Access rules in a real daemon: real uids over the pods' socket, tokens that a small API server
vouches for, and a rules file that changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.harness import Daemon, Reply, UnixConnection, call
from tests.kube.jsonserver import OWN_TOKEN
from tests.kube.tokenserver import TokenServer, make_token
from tests.process.origin import CountingOrigin
from tests.process.other_uid import as_other_uid, call_as_other_uid
from tests.process.ruling import ask, pods
from tests.process.secrecy import written
from tests.servers.require import needs_root


def keys_of(reply: Reply) -> set[str]:
    return {model["key"] for model in reply.json()["models"]}


def test_a_denial_says_what_who_why_and_what_next(make_ruled, origin: CountingOrigin):
    origin.bodies["/private/m.bin"] = b"x"
    daemon = make_ruled(
        {"name": "no private", "effect": "deny", "uris": [f"{origin.url}/private/*"]}
    )
    for path in ("private/m.bin", "public/../private/m.bin", "%70rivate/m.bin"):
        reply = ask(daemon, f"{origin.url}/{path}")
        problem = reply.json()
        assert (reply.status, problem["code"]) == (403, "forbidden")
        assert (problem["verb"], problem["rule"]) == ("read", "no private")
        assert "rule 'no private' denies it" in problem["detail"]
        assert f"uid {os.getuid()}" in problem["detail"]
        assert "cachd may read" in problem["hint"]
    assert origin.requests.total() == 0
    assert daemon.metric("cachd_denied_total", verb="read") == 3
    assert "denied: pod, uid" in daemon.log()
    # Administrators may.
    assert daemon.admin("POST", "/v1/models", {"uri": f"{origin.url}/private/m.bin"}).status == 200


@needs_root
def test_rules_by_uid(make_ruled, origin: CountingOrigin):
    origin.bodies["/m.bin"] = b"x"
    daemon = make_ruled({"name": "mine", "uids": [4242]}, ACCESS_DEFAULT="deny")
    uri = f"{origin.url}/m.bin"
    assert ask(daemon, uri).json()["code"] == "forbidden"
    status, answer = as_other_uid(daemon, {"uri": uri})
    assert (status, answer["result"]) == (200, "miss")
    target = f"/v1/models/{answer['key']}"
    assert call_as_other_uid(daemon, "GET", f"{target}/files/m.bin", None, {}) == (200, "x")
    for place in (f"{target}/files/m.bin", f"{target}/archive.tar"):
        assert pods(daemon, "GET", place).status == 403
    assert pods(daemon, "GET", target).status == 404
    assert pods(daemon, "POST", f"{target}/leases").status == 403
    assert keys_of(pods(daemon, "GET", "/v1/models")) == set()
    assert pods(daemon, "POST", "/v1/key", {"uri": uri}).status == 403
    assert pods(daemon, "POST", "/v1/plan", {"uri": uri}).status == 403


def test_a_lease_is_no_way_round_a_rule(make_ruled, origin: CountingOrigin, tokens: TokenServer):
    origin.bodies["/m.bin"] = b"x"
    ours, theirs = tokens.admit("team-a", "runner"), tokens.admit("team-b", "runner")
    daemon = make_ruled(
        {"name": "a", "namespaces": ["team-a"]}, tokens=tokens, ACCESS_DEFAULT="deny"
    )
    answer = ask(daemon, f"{origin.url}/m.bin", ours, lease={"holder": "p"}).json()
    target, lease = f"/v1/models/{answer['key']}", answer["lease"]["id"]
    file = f"{target}/files/m.bin"
    assert pods(daemon, "GET", file, token=ours).status == 200
    assert pods(daemon, "GET", file, token=theirs, **{"Cachd-Lease": lease}).status == 403
    assert pods(daemon, "GET", target, token=theirs, **{"Cachd-Lease": lease}).status == 403
    assert pods(daemon, "PUT", f"{target}/leases/{lease}", token=theirs).status == 403
    assert pods(daemon, "PUT", f"{target}/leases/{lease}", token=ours).status == 200
    # Letting go harms nobody.
    assert pods(daemon, "DELETE", f"{target}/leases/{lease}", token=theirs).status == 200


def test_namespaces_see_and_get_their_own(make_ruled, origin: CountingOrigin, tokens: TokenServer):
    for team in ("a", "b"):
        origin.bodies[f"/{team}/m.bin"] = team.encode()
    rules = [
        {"name": f"team {t}", "namespaces": [f"team-{t}"], "uris": [f"{origin.url}/{t}/*"]}
        for t in ("a", "b")
    ]
    daemon = make_ruled(*rules, tokens=tokens, ACCESS_DEFAULT="deny")
    a, b = tokens.admit("team-a", "s", pod=("p", "u")), tokens.admit("team-b", "s")
    of_a = ask(daemon, f"{origin.url}/a/m.bin", a)
    of_b = ask(daemon, f"{origin.url}/b/m.bin", b)
    assert (of_a.status, of_b.status) == (200, 200)
    refused = ask(daemon, f"{origin.url}/b/m.bin", a)
    assert refused.status == 403
    assert "service account team-a/s" in refused.json()["detail"]
    assert ask(daemon, f"{origin.url}/a/m.bin").status == 403
    assert keys_of(pods(daemon, "GET", "/v1/models", token=a)) == {of_a.json()["key"]}
    assert keys_of(pods(daemon, "GET", "/v1/models", token=b)) == {of_b.json()["key"]}
    assert keys_of(pods(daemon, "GET", "/v1/models")) == set()
    assert len(keys_of(daemon.admin("GET", "/v1/models"))) == 2
    assert "account=team-a/s" in daemon.log()
    for token in (a, b, OWN_TOKEN):
        assert_nowhere(daemon, token)


def assert_nowhere(daemon: Daemon, token: str) -> None:
    """A token is in no log, no metric and no file."""
    for text in written(daemon):
        assert token not in text
        assert token.rpartition(".")[2] not in text


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("Bearer " + make_token("system:serviceaccount:a:b"), "doesn't accept it"),
        ("Bearer " + "x" * 5000, "longer than"),
        ("Bearer " + make_token("s", audience="api"), "not meant for the audience 'cachd'"),
        ("Bearer a b", "no bearer token"),
        ("Bearer", "no bearer token"),
        ("Basic dXNlcjpzZWNyZXQ=", "no bearer token"),
    ],
)
def test_a_token_that_is_no_good(
    make_ruled, tokens: TokenServer, origin: CountingOrigin, header: str, why: str
):
    origin.bodies["/m.bin"] = b"x"
    daemon = make_ruled(tokens=tokens)
    body = {"uri": f"{origin.url}/m.bin"}
    reply = call(daemon.socket, "POST", "/v1/models", body, {"Authorization": header})
    assert (reply.status, reply.json()["code"]) == (401, "credentials_invalid")
    assert why in reply.json()["detail"]
    assert "service-account token" in reply.json()["hint"]
    sent = header.rpartition(" ")[2]
    assert len(sent) < 10 or sent.encode() not in reply.body
    # An administrator's socket asks nobody who it is.
    reply = call(daemon.admin_socket, "POST", "/v1/models", body, {"Authorization": header})
    assert reply.status == 200


def test_without_kubernetes_a_token_says_nothing(make_ruled, origin: CountingOrigin):
    origin.bodies["/m.bin"] = b"x"
    daemon = make_ruled({"name": "a", "namespaces": ["*"]}, ACCESS_DEFAULT="deny")
    token = make_token("system:serviceaccount:a:b")
    assert ask(daemon, f"{origin.url}/m.bin", token).status == 403


def test_an_api_server_that_is_away(make_ruled, origin: CountingOrigin, tokens: TokenServer):
    """It is missed only where a rule needs to know who asks."""
    origin.bodies |= {"/open/m.bin": b"o", "/a/m.bin": b"a"}
    daemon = make_ruled(
        {"name": "open", "uris": [f"{origin.url}/open/*"]},
        {"name": "a", "namespaces": ["team-a"], "uris": [f"{origin.url}/a/*"]},
        tokens=tokens,
        ACCESS_DEFAULT="deny",
        KUBERNETES_IDENTITY_TTL="0",
    )
    known, new = tokens.admit("team-a", "s"), tokens.admit("team-a", "t")
    assert ask(daemon, f"{origin.url}/a/m.bin", known).status == 200
    tokens.is_down = True
    assert ask(daemon, f"{origin.url}/a/m.bin", known).json()["result"] == "hit"
    away = ask(daemon, f"{origin.url}/a/m.bin", new)
    assert (away.status, away.json()["code"]) == (503, "kubernetes_failed")
    assert "retry-after" in away.headers
    assert ask(daemon, f"{origin.url}/open/m.bin", new).status == 200
    assert ask(daemon, f"{origin.url}/c/m.bin", new).status == 403
    assert_nowhere(daemon, new)


def test_who_may_only_read_gets_hits_and_starts_nothing(make_ruled, origin: CountingOrigin):
    origin.bodies |= {"/m.bin": b"one", "/n.bin": b"n"}
    uri = f"{origin.url}/m.bin"
    daemon = make_ruled(
        {"name": "readers", "verbs": ["read"]}, ACCESS_DEFAULT="deny", FRESHNESS_INTERVAL="0"
    )
    for target in (f"{origin.url}/n.bin", uri):
        reply = ask(daemon, target)
        assert (reply.status, reply.json()["verb"]) == (403, "fetch")
        assert pods(daemon, "POST", "/v1/models", {"uri": target, "wait": False}).status == 403
    assert origin.requests.total() == 0
    assert daemon.admin("POST", "/v1/models", {"uri": uri}).status == 200
    assert ask(daemon, uri).json()["result"] == "hit"
    # The source moved on: what is here is given, marked, and nothing is fetched.
    origin.bodies["/m.bin"] = b"another"
    sent = origin.sent["/m.bin"]
    assert ask(daemon, uri).json()["result"] == "stale"
    assert origin.sent["/m.bin"] == sent


def test_who_may_not_fetch_boards_nobody_elses_flight(
    make_ruled, origin: CountingOrigin, tokens: TokenServer
):
    origin.bodies["/m.bin"] = os.urandom(8 << 20)
    uri = f"{origin.url}/m.bin"
    daemon = make_ruled(
        {"name": "a", "namespaces": ["team-a"]}, {"name": "all", "verbs": ["read"]},
        tokens=tokens, ACCESS_DEFAULT="deny",
    )  # fmt: skip
    token = tokens.admit("team-a", "s")
    origin.hold(after=1 << 20)
    assert pods(daemon, "POST", "/v1/models", {"uri": uri, "wait": False}, token).status == 202
    assert origin.held.wait(60)
    assert ask(daemon, uri).json()["verb"] == "fetch"
    origin.release()
    assert ask(daemon, uri, token).status == 200
    assert ask(daemon, uri).json()["result"] == "hit"


def test_what_administrators_do_takes_a_rule_that_names_it(
    make_ruled, origin: CountingOrigin, tokens: TokenServer
):
    origin.bodies |= {"/a/m.bin": b"a", "/b/m.bin": b"b"}
    ops = tokens.admit("ops", "keeper")
    uris = [f"{origin.url}/a/*"]
    daemon = make_ruled(
        {"name": "keep", "namespaces": ["ops"], "verbs": ["pin", "evict"], "uris": uris},
        {"name": "watch", "namespaces": ["ops"], "verbs": ["admin"]},
        {"name": "not b", "namespaces": ["ops"], "effect": "deny", "uris": [f"{origin.url}/b/*"]},
        tokens=tokens,
    )
    a = daemon.admin("POST", "/v1/models", {"uri": f"{origin.url}/a/m.bin"}).json()["key"]
    b = daemon.admin("POST", "/v1/models", {"uri": f"{origin.url}/b/m.bin"}).json()["key"]
    for method, path in (("PUT", "pin"), ("DELETE", "pin")):
        assert pods(daemon, method, f"/v1/models/{a}/{path}", token=ops).status == 200
        assert pods(daemon, method, f"/v1/models/{b}/{path}", token=ops).status == 403
        assert pods(daemon, method, f"/v1/models/{a}/{path}").status == 403
    assert pods(daemon, "POST", "/v1/gc", token=ops).status == 403
    assert pods(daemon, "GET", "/metrics", token=ops).status == 200
    assert pods(daemon, "GET", "/metrics").status == 403
    assert pods(daemon, "POST", "/v1/verify", token=ops).status == 200
    assert pods(daemon, "POST", f"/v1/models/{b}/verify", token=ops).status == 200
    assert pods(daemon, "DELETE", f"/v1/models/{b}", token=ops).status == 403
    assert pods(daemon, "DELETE", f"/v1/models/{a}", token=ops).status == 200


def test_events_tell_nothing_of_what_may_not_be_read(
    make_ruled, origin: CountingOrigin, tokens: TokenServer
):
    origin.bodies |= {"/a/m.bin": b"a", "/b/m.bin": b"b"}
    ops = tokens.admit("ops", "keeper")
    daemon = make_ruled(
        {"name": "watch", "namespaces": ["ops"], "verbs": ["admin"]},
        {"name": "not b", "namespaces": ["ops"], "effect": "deny", "uris": [f"{origin.url}/b/*"]},
        tokens=tokens,
    )
    connection = UnixConnection(daemon.socket)
    connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {ops}"})
    lines = connection.getresponse()
    assert lines.status == 200
    assert json.loads(lines.readline())["event"] == "following"
    b = daemon.admin("POST", "/v1/models", {"uri": f"{origin.url}/b/m.bin"}).json()["key"]
    a = daemon.admin("POST", "/v1/models", {"uri": f"{origin.url}/a/m.bin"}).json()["key"]
    heard = []
    while not heard or heard[-1] != ("fetch_ended", a):
        event = json.loads(lines.readline())
        heard.append((event["event"], event.get("key")))
    connection.close()
    assert b not in {key for _, key in heard}


def test_may_explains(make_ruled, origin: CountingOrigin):
    daemon = make_ruled(
        {"name": "no private", "effect": "deny", "uris": ["s3://bkt/private/*"], "uids": [7]},
        {"name": "lent", "namespaces": ["team-a"], "identity": True},
    )

    def may(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "cachd", "may", *arguments, "--socket", str(daemon.socket)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    code, text = may("read", "cachd+s3://bkt/private/x", "--uid", "7")
    assert (code, text) == (5, "denied: the first rule that matches is 'no private'\n")
    assert may("read", "s3://bkt", "--uid", "7")[0] == 5
    code, text = may("fetch", "s3://bkt/m", "--service-account", "team-a/runner")
    assert (code, "identity is lent" in text) == (0, True)
    code, text = may("pin", "s3://bkt/m", "--namespace", "team-b")
    assert (code, "takes one that names the verb" in text) == (5, True)
    code, text = may("read", "s3://bkt/m", "--json")
    assert json.loads(text)["reason"] == "no rule matches, and access.default is allow"
    assert pods(daemon, "POST", "/v1/may", {"verb": "read"}).status == 403
    for body in (
        {}, {"verb": "write"}, {"verb": "read", "service_account": "x"},
        {"verb": "read", "namespace": "a", "service_account": "b/x"}, {"verb": "read", "uri": "x"},
    ):  # fmt: skip
        assert daemon.admin("POST", "/v1/may", body).status == 400
    assert daemon.metric("cachd_denied_total", verb="read") == 0
