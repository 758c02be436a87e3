"""The daemon's own identity at S3: where it is found, when it is read again, when it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cachd.errors import (
    AccessError,
    ConfigInvalid,
    CredentialsMissing,
)
from cachd.model import Auth
from tests.servers.s3 import PUBLIC_BUCKET
from tests.sources.asking import KEYS, NOBODY, context, request, resolve, settings

if TYPE_CHECKING:
    from tests.servers.s3 import S3Server


async def test_the_daemons_own_identity(
    seaweed: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = seaweed.make_bucket({"m/x": b"1"})
    seaweed.make_bucket({"m/x": b"1"}, PUBLIC_BUCKET)
    public, private = f"s3://{PUBLIC_BUCKET}/m", f"s3://{bucket}/m"
    daemon: dict[str, Any] = {"identity": "daemon", "endpoint": seaweed.endpoint}
    assert not (await resolve(public, **daemon)).is_credentialed
    with pytest.raises(CredentialsMissing):
        await resolve(private, **daemon)

    shared = tmp_path / "credentials"
    shared.write_text(
        f"[team]\naws_access_key_id={KEYS.access_key}\naws_secret_access_key={KEYS.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    given = settings(s3={"profile": "team"})
    assert (await resolve(private, given=given, **daemon)).is_credentialed
    with pytest.raises(CredentialsMissing):
        await resolve(private, given=settings(s3={"profile": "team", "anonymous": True}), **daemon)
    with pytest.raises(ConfigInvalid, match="ProfileNotFound"):
        await resolve(private, given=settings(s3={"profile": "nobody"}), **daemon)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    plan = await resolve(private, **daemon)
    assert plan.auth.access_key == KEYS.access_key
    with pytest.raises(CredentialsMissing):
        await resolve(private, NOBODY, endpoint=seaweed.endpoint)


async def test_a_refusal_tells_where_the_daemons_credentials_were_found(
    seaweed: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = seaweed.make_bucket({"m/x": b"1"})
    asked: dict[str, Any] = {"identity": "daemon", "endpoint": seaweed.endpoint}
    shared = tmp_path / "credentials"
    shared.write_text("[default]\naws_access_key_id=wrong\naws_secret_access_key=s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    with pytest.raises(AccessError, match=r"the daemon's own \(shared-credentials-file\)"):
        await resolve(f"s3://{bucket}/m", **asked)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with pytest.raises(AccessError, match=r"the daemon's own \(env\) credentials"):
        await resolve(f"s3://{bucket}/m", **asked)


async def test_authorize_reads_the_daemons_credentials_again(
    seaweed: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, asked = request(
        "s3://bucket/m", identity="daemon", endpoint=seaweed.endpoint, region="eu-west-3"
    )
    for number in range(2):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"key{number}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"token{number}")
        auth = await source.authorize(asked, context())
        assert (auth.kind, auth.access_key, auth.region) == ("sigv4", f"key{number}", "eu-west-3")
        assert auth.session_token == f"token{number}"
    _, asked = request("s3://bucket/m", NOBODY)
    assert await source.authorize(asked, context()) == Auth()


async def test_credentials_that_refresh_have_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "credentials.sh"
    answer = {
        "Version": 1,
        "AccessKeyId": "temporary",
        "SecretAccessKey": "s",
        "SessionToken": "t",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    script.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    script.chmod(0o755)
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {script}\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    source, asked = request("s3://bucket/m", identity="daemon")
    auth = await source.authorize(asked, context())
    assert (auth.access_key, auth.region) == ("temporary", "eu-central-1")
    assert auth.expires == 4070908800
