"""Whose token goes along to Cloud Storage."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from cachd.credentials import Credentials
from cachd.errors import (
    ConfigInvalid,
    CredentialsInvalid,
    CredentialsMissing,
    InvalidError,
    OriginUnreachable,
)
from cachd.sources.tokens import Token, Tokens
from tests.servers.gcs import EMAIL, REFRESH_TOKEN, FakeGcs
from tests.servers.ports import free_ports
from tests.sources.asking import context, request, settings
from tests.sources.asking import resolve_once as resolve

if TYPE_CHECKING:
    from pathlib import Path


W = b"weights" * 1000


async def test_a_service_accounts_key(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket({"m/x": W})
    gcs.private.add(bucket)
    key = Credentials(google_key=gcs.service_account())
    source, asked = request(f"gs://{bucket}/m", key)
    plan = await source.resolve(asked, context())
    assert plan.is_credentialed
    (name, value), *_ = plan.auth.headers
    assert (name, plan.auth.kind) == ("Authorization", "headers")
    assert plan.auth.host == gcs.endpoint.removeprefix("http://")
    assert gcs.authorizations() == {value}
    await source.probe(asked, "x", context())
    assert len(gcs.exchanges) == 1
    renewed = await source.authorize(asked, context())
    assert len(gcs.exchanges) == 2
    assert renewed.headers != plan.auth.headers
    (claims,) = {form["assertion"].split(".")[1] for form in gcs.exchanges[:1]}
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert said["scope"].endswith("devstorage.read_only")


async def test_a_token_that_ends_soon_is_changed() -> None:
    now, asked = [1000.0], []
    tokens = Tokens(clock=lambda: now[0])

    async def obtain() -> Token:
        asked.append(now[0])
        return Token(value=f"t{len(asked)}", expires=now[0] + 3600, renew_at=now[0] + 3300)

    assert (await tokens.get(["a"], obtain)).value == "t1"
    now[0] += 3299
    assert (await tokens.get(["a"], obtain)).value == "t1"
    assert (await tokens.get(["b"], obtain)).value == "t2"
    now[0] += 2
    assert (await tokens.get(["a"], obtain)).value == "t3"
    assert (await tokens.get(["a"], obtain, fresh=True)).value == "t4"
    assert "t4" not in repr(await tokens.get(["a"], obtain))


async def test_a_users_own(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket({"m/x": W})
    gcs.private.add(bucket)
    plan = await resolve(f"gs://{bucket}/m", Credentials(google_key=gcs.authorized_user()))
    assert ("x-goog-user-project", "payer") in plan.auth.headers
    assert gcs.exchanges[0]["refresh_token"] == REFRESH_TOKEN
    assert gcs.seen[0][3]["x-goog-user-project"] == "payer"


async def test_headers_and_tokens_that_were_sent(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket({"m/x": W})
    gcs.private.add(bucket)
    given = (("127.0.0.1", (("Authorization", f"Bearer {gcs.issue()}"),)),)
    key = gcs.service_account()
    plan = await resolve(f"gs://{bucket}/m", Credentials(headers=given, google_key=key))
    assert plan.auth.headers == given[0][1]
    assert plan.is_credentialed
    assert gcs.exchanges == []
    assert (await resolve(f"gs://{bucket}/m", Credentials(token=gcs.issue()))).is_credentialed


async def test_the_daemons_own(
    gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = gcs.make_bucket({"m/x": W})
    gcs.private.add(bucket)
    uri = f"gs://{bucket}/m"
    with pytest.raises(CredentialsMissing):
        await resolve(uri, identity="daemon")
    key = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    with pytest.raises(ConfigInvalid, match="can't read the daemon's Google key"):
        await resolve(uri, identity="daemon")
    key.write_text(gcs.service_account())
    assert (await resolve(uri, identity="daemon")).is_credentialed
    with pytest.raises(CredentialsMissing):
        await resolve(uri, identity="anonymous")
    with pytest.raises(CredentialsMissing):
        await resolve(uri, identity="daemon", given=settings(gs={"anonymous": True}))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    folder = tmp_path / "gcloud"
    folder.mkdir()
    (folder / "application_default_credentials.json").write_text(gcs.authorized_user())
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(folder))
    assert (await resolve(uri, identity="daemon")).is_credentialed


async def test_the_daemons_metadata_server(gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = gcs.make_bucket({"m/x": W})
    gcs.private.add(bucket)
    monkeypatch.setenv("GCE_METADATA_HOST", gcs.endpoint.removeprefix("http://"))
    plan = await resolve(f"gs://{bucket}/m", identity="daemon")
    assert plan.auth.expires is not None
    assert gcs.seen[0][1].startswith("/computeMetadata/v1/")
    (port,) = free_ports(1)
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{port}")
    with pytest.raises(OriginUnreachable, match="metadata server"):
        await resolve(f"gs://{bucket}/m", identity="daemon")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("nonsense-2718", "no JSON object"),
        ('{"type": "external_account", "token_url": "2718"}', "'external_account'"),
        ('{"type": "service_account", "private_key": "2718"}', "no client_email"),
        (
            '{"type": "service_account", "client_email": "a@b", "private_key": "2718"}',
            "no PEM text of an RSA key",
        ),
    ],
)
async def test_keys_that_are_none(gcs: FakeGcs, key: str, words: str) -> None:
    with pytest.raises(InvalidError, match=words) as caught:
        await resolve(f"gs://{gcs.make_bucket({})}/m", Credentials(google_key=key))
    assert caught.value.field == "credentials.google_key"
    assert "2718" not in str(caught.value.to_wire())


async def test_a_key_that_is_refused(gcs: FakeGcs) -> None:
    stranger = FakeGcs()
    stranger.stop()
    key = json.loads(stranger.service_account()) | {"token_uri": f"{gcs.endpoint}/token"}
    with pytest.raises(CredentialsInvalid, match="invalid_grant") as caught:
        await resolve(f"gs://{gcs.make_bucket({})}/m", Credentials(google_key=json.dumps(key)))
    assert EMAIL in caught.value.message
    assert "credentials.google_key" in caught.value.message
    assert "PRIVATE" not in str(caught.value.to_wire())


async def test_a_key_is_not_shown_in_clear(gcs: FakeGcs) -> None:
    """At an https:// endpoint; an emulator of http:// may have a token server of http://."""
    uri = f"gs://{gcs.make_bucket({})}/m"
    credentials = Credentials(google_key=gcs.service_account())
    before = len(gcs.exchanges)
    with pytest.raises(InvalidError, match="http:// token_uri") as caught:
        await resolve(uri, credentials, endpoint="https://storage.googleapis.com")
    assert caught.value.field == "credentials.google_key"
    assert len(gcs.exchanges) == before
