"""What a rule lends: the daemon's own identity, and hits without a probe. Against a server that
checks signatures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon
from tests.kube.tokenserver import TokenServer
from tests.process.other_uid import call_as_other_uid
from tests.servers.require import needs_root
from tests.servers.s3 import S3Server

pytestmark = needs_root


@pytest.fixture
def make(tmp_path: Path, seaweed: S3Server, tokens: TokenServer):
    made: list[Daemon] = []

    def build(*rules: dict[str, Any], **settings: str) -> Daemon:
        daemon = Daemon(
            tmp_path / f"d{len(made)}",
            settings={
                "SOURCES_S3_ENDPOINT": seaweed.endpoint,
                "ACCESS_RULES": json.dumps(rules),
                "FRESHNESS_INTERVAL": "3600",
                **settings,
            },
            environ={
                "AWS_ACCESS_KEY_ID": seaweed.access_key,
                "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
                **tokens.environ(tmp_path),
            },
        )
        made.append(daemon)
        return daemon.start()

    yield build
    for daemon in made:
        daemon.close()


def get(daemon: Daemon, target: str, token: str | None, body: Any = None) -> tuple[int, str]:
    """As another uid than the daemon's, to whom its identity is lent anyway."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return call_as_other_uid(daemon, "POST" if body else "GET", target, body, headers)


def ask(daemon: Daemon, uri: str, token: str | None, **body: Any) -> tuple[int, dict[str, Any]]:
    status, text = get(daemon, "/v1/models", token, {"uri": uri, **body})
    return status, json.loads(text)


REFUSED = (401, 403)


def test_the_daemons_identity_is_lent_to_whom_a_rule_names(
    make, seaweed: S3Server, juicefs: S3Server, tokens: TokenServer
):
    bucket = seaweed.make_bucket({"a/w.bin": b"of a", "b/w.bin": b"of b"})
    juicefs.make_bucket({"a/w.bin": b"elsewhere"}, bucket)
    uri = f"s3://{bucket}/a"
    daemon = make(
        {"name": "lent", "namespaces": ["team-a"], "uris": [f"{uri}*"], "identity": True},
    )
    ours, theirs = tokens.admit("team-a", "s"), tokens.admit("team-b", "s")
    status, answer = ask(daemon, uri, ours)
    assert (status, answer["result"]) == (200, "miss")
    for token in (theirs, None):
        assert ask(daemon, uri, token)[0] in REFUSED
    assert ask(daemon, f"s3://{bucket}/b", ours)[0] in REFUSED
    # Nobody is shown a signature at an endpoint of the caller's choice.
    assert ask(daemon, uri, ours, options={"endpoint": juicefs.endpoint})[0] in REFUSED
    key = answer["key"]
    for token, expected in ((ours, {key}), (theirs, set())):
        assert keys_of(daemon, token) == expected
        status, _ = get(daemon, f"/v1/models/{key}/files/w.bin", token)
        assert status == (200 if expected else 403)


def keys_of(daemon: Daemon, token: str) -> set[str]:
    _, text = get(daemon, "/v1/models", token)
    return {model["key"] for model in json.loads(text)["models"]}


def test_what_an_administrator_fetched_elsewhere_is_not_lent(
    make, seaweed: S3Server, juicefs: S3Server, tokens: TokenServer
):
    bucket = juicefs.make_bucket({"m/w.bin": b"private"})
    daemon = make({"name": "lent", "namespaces": ["team-a"], "identity": True})
    body = {
        "uri": f"s3://{bucket}/m",
        "options": {"endpoint": juicefs.endpoint},
        "credentials": {
            "access_key_id": juicefs.access_key,
            "secret_access_key": juicefs.secret_key,
        },
    }
    answer = daemon.admin("POST", "/v1/models", body)
    assert answer.status == 200, answer.body
    token = tokens.admit("team-a", "s")
    assert keys_of(daemon, token) == set()
    assert get(daemon, f"/v1/models/{answer.json()['key']}/files/w.bin", token)[0] == 403


def test_hits_without_a_probe_for_whom_a_rule_names(make, seaweed: S3Server, tokens: TokenServer):
    bucket = seaweed.make_bucket({"m/w.bin": b"private"})
    uri = f"s3://{bucket}/m"
    daemon = make({"name": "open", "namespaces": ["team-a"], "open_hits": True})
    ours, theirs = tokens.admit("team-a", "s"), tokens.admit("team-b", "s")
    assert ask(daemon, uri, ours)[0] in REFUSED
    keys = {"access_key_id": seaweed.access_key, "secret_access_key": seaweed.secret_key}
    assert ask(daemon, uri, theirs, credentials=keys)[1]["result"] == "miss"
    probes = daemon.metric("cachd_probes_total", result="allowed")
    status, answer = ask(daemon, uri, ours)
    assert (status, answer["result"]) == (200, "hit")
    assert daemon.metric("cachd_probes_total", result="allowed") == probes
    for token in (theirs, None):
        assert ask(daemon, uri, token)[0] in REFUSED


@pytest.mark.parametrize(("setting", "is_lent"), [("", False), ("false", False), ("true", True)])
def test_in_a_cluster_the_daemons_own_uid_proves_nothing(
    make, seaweed: S3Server, setting: str, is_lent: bool
):
    """A pod can have any uid, root's and the daemon's among them."""
    bucket = seaweed.make_bucket({"m/w.bin": b"private"})
    daemon = make(ACCESS_TRUST_OWN_UID=setting)
    assert (daemon.ask(f"s3://{bucket}/m").status == 200) is is_lent
    assert daemon.admin("POST", "/v1/models", {"uri": f"s3://{bucket}/m"}).status == 200
