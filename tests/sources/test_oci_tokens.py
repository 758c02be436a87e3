"""Registries that want tokens; manifests that aren't what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsInvalid,
    CredentialsMissing,
    DigestMismatch,
    EgressForbidden,
    NotFound,
)
from cachd.model import Auth
from tests.servers.registry import start_registry
from tests.servers.token_registry import TokenRegistry, token_registry
from tests.servers.token_service import token_service
from tests.sources.asking import NOBODY, context, paths, request, resolve

LOGIN = ("somebody", "open-sesame")
KEYS = Credentials(username=LOGIN[0], password=LOGIN[1])


async def ask(registry: TokenRegistry, credentials: Credentials = NOBODY, **more: Any) -> Any:
    registry.put_files("a/b", "v1", {"x": b"x"})
    uri = f"oci://{registry.host}/a/b:{more.pop('tag', 'v1')}"
    return await resolve(uri, credentials, plain_http=True, **more)


async def test_tokens_for_anybody() -> None:
    with token_registry() as registry:
        plan = await ask(registry)
        assert paths(plan) == {"x": 1}
        assert not plan.is_credentialed
        assert plan.auth.headers == (("Authorization", "Bearer token-0-of-the-tests"),)
        assert plan.auth.host == registry.host
        (asked,) = registry.tokens()
        assert asked.query == {"service": "the tests", "scope": "repository:a/b:pull"}
        assert asked.authorization == ""


async def test_tokens_for_a_name_and_a_password() -> None:
    with token_registry(login=LOGIN) as registry:
        plan = await ask(registry, KEYS)
        assert plan.is_credentialed
        # The password goes to who gives tokens, and to nobody else.
        shown = {each.path for each in registry.asked if each.authorization.startswith("Basic")}
        assert shown == {"/token"}
        with pytest.raises(CredentialsMissing, match=r"/token: .* answered 401; no login"):
            await ask(registry)
        wrong = Credentials(username="somebody", password="close-sesame")
        with pytest.raises(CredentialsInvalid, match="a name and a password") as caught:
            await ask(registry, wrong)
        assert "sesame" not in f"{caught.value} {caught.value.hint}"


async def test_what_is_gone_renews_a_pass_and_proves_none() -> None:
    with token_registry() as registry:
        plan = await ask(registry)
        source, asked = request(f"oci://{registry.host}/a/b:v1", NOBODY, plain_http=True)
        await source.probe(asked, "x", context())
        registry.manifests.clear()
        assert (await source.authorize(asked, context())).host == plan.auth.host
        with pytest.raises(NotFound):
            await source.probe(asked, "x", context())


async def test_docker_registry_with_a_token_service(tmp_path: Path) -> None:
    """The real one: its challenges, and its judgement of tokens."""
    rights = {"": [], "somebody:open-sesame": ["pull"]}
    with token_service(tmp_path, rights) as service:
        registry = start_registry(tmp_path / "registry", tokens=service.auth())
        try:
            token = service.sign("repository:a/b:pull,push", ["pull", "push"])
            registry.headers = {"Authorization": f"Bearer {token}"}
            registry.push_files("a/b", "v1", {"x": b"x"})
            uri = f"oci://{registry.host}/a/b:v1"
            plan = await resolve(uri, KEYS, plain_http=True)
            assert paths(plan) == {"x": 1}
            assert service.scopes == ["repository:a/b:pull"]
            # The token that the plan has opens the blobs.
            ((name, value),) = plan.auth.headers
            registry.headers = {name: value}
            blob = plan.files[0].url.removeprefix(registry.url)
            assert registry.call("GET", blob)[::2] == (200, b"x")
            with pytest.raises(CredentialsMissing, match=r"401 \(UNAUTHORIZED\); no login"):
                await resolve(uri, NOBODY, plain_http=True)
            with pytest.raises(CredentialsInvalid):
                await resolve(uri, Credentials(username="x", password="y"), plain_http=True)
        finally:
            registry.stop()


async def test_tokens_for_an_identity_token() -> None:
    with token_registry(login=LOGIN, refresh="identity-of-somebody") as registry:
        plan = await ask(registry, Credentials(username="<token>", password="identity-of-somebody"))
        assert plan.is_credentialed
        (asked,) = registry.tokens()
        assert (asked.method, asked.authorization) == ("POST", "")
        assert asked.form["grant_type"] == "refresh_token"
        assert asked.form["scope"] == "repository:a/b:pull"
        with pytest.raises(CredentialsInvalid, match="an identity token"):
            await ask(registry, Credentials(username="<token>", password="of-nobody"))


async def test_a_token_of_the_callers_own() -> None:
    """It comes as a header for the registry's host; a hub's token is never shown to a registry."""
    with token_registry(login=LOGIN) as registry:
        registry.left["my-own-token"] = 10
        header = (("Authorization", "Bearer my-own-token"),)
        plan = await ask(registry, Credentials(headers=((registry.host, header),)))
        assert plan.is_credentialed
        assert plan.auth.headers == header
        assert registry.tokens() == []
        with pytest.raises(CredentialsMissing):
            await ask(registry, Credentials(token="a-hubs-sesame"))
        assert "a-hubs-sesame" not in repr(registry.asked)


async def test_a_new_token_for_a_fetch_that_runs() -> None:
    with token_registry(login=LOGIN) as registry:
        registry.put_files("a/b", "v1", {"x": b"x"})
        uri = f"oci://{registry.host}/a/b:v1"
        source, asked = request(uri, KEYS, plain_http=True)
        first = await source.resolve(asked, context())
        second = await source.authorize(asked, context())
        assert isinstance(second, Auth)
        assert second.headers != first.auth.headers
        assert second.expires is not None
        # That the tag is gone meanwhile is no matter.
        registry.manifests.clear()
        assert (await source.authorize(asked, context())).headers != second.headers
        registry.login = ("nobody", "")
        with pytest.raises(CredentialsInvalid):
            await source.authorize(asked, context())


@pytest.mark.parametrize(
    ("realm", "error"),
    [
        ("ftp://127.0.0.1/token", CachdError),
        ("no url", CachdError),
        ("http://169.254.169.254/latest", EgressForbidden),
    ],
)
async def test_realms_that_are_no_place_for_a_password(realm: str, error: type[CachdError]) -> None:
    with token_registry(login=LOGIN, realm=realm) as registry, pytest.raises(error):
        await ask(registry, KEYS)


async def test_a_password_never_leaves_tls(
    certificates: Any, nginx_program: str, tmp_path: Any
) -> None:
    """The registry has TLS, and sends for its tokens to a place that has none."""
    from tests.servers.nginx import Nginx

    with token_registry(login=LOGIN) as plain:
        body = (
            f'location /v2/ {{ add_header WWW-Authenticate "Bearer realm=\\"{plain.url}/token\\"" '
            "always; return 401; }"
        )
        front = Nginx.start(nginx_program, tmp_path / "front", certificates, body=body)
        try:
            host = front.tls_url.partition("://")[2]
            with pytest.raises(AccessError, match="without TLS"):
                await resolve(f"oci://{host}/a/b:v1", KEYS, ca_pem=certificates.ca_pem)
            assert plain.asked == []
        finally:
            front.stop()


async def test_a_manifest_that_is_not_what_was_asked_for() -> None:
    with token_registry() as registry:
        registry.put_files("a/b", "v1", {"x": b"x"})
        body = b'{"schemaVersion": 2, "layers": []}'
        wanted = "sha256:" + "0" * 64
        registry.manifests[f"a/b/manifests/{wanted}"] = (body, wanted)
        with pytest.raises(DigestMismatch, match="asked for"):
            await resolve(f"oci://{registry.host}/a/b@{wanted}", NOBODY, plain_http=True)
        registry.wrong_digest = wanted
        with pytest.raises(DigestMismatch, match="came with it"):
            await ask(registry)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"schemaVersion": 2}', b"9" * 5_000_000])
async def test_manifests_that_are_none(body: bytes) -> None:
    with token_registry() as registry:
        registry.put_manifest("a/b", "odd", body)
        with pytest.raises(CachdError):
            await ask(registry, tag="odd")
