"""TLS with a registry, and what whoever writes into a registry can't get hold of."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import OriginError, OriginTls
from tests.harness import running
from tests.process.other_uid import as_other_uid
from tests.registries.asking import name
from tests.servers.certificates import Certificates
from tests.servers.modelregistry import ModelRegistry
from tests.servers.require import needs_root


@pytest.mark.asyncio
async def test_its_authority_and_a_client_certificate(certificates: Certificates):
    context = certificates.server_context()
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    pem = certificates.chain.read_text() + certificates.key.read_text()
    registry = ModelRegistry(context)
    try:
        registry.add("iris", "v1", "s3://b/1")
        shown = Credentials(registry_client_pem=pem)
        at = {"registry": registry.url, "max_attempts": 1}
        uri = "model-registry://iris"
        for how in ({"registry_ca_pem": certificates.ca_pem}, {"registry_verify": False}):
            found = await name(uri, credentials=shown, **at, **how)
            assert (found.uri, found.is_credentialed) == ("s3://b/1", True)
        with pytest.raises(OriginTls):
            await name(uri, credentials=shown, **at)
        # That the store's certificate isn't verified says nothing of the registry's.
        with pytest.raises(OriginTls):
            await name(uri, credentials=shown, verify=False, **at)
        with pytest.raises(OriginError):
            await name(uri, registry_ca_pem=certificates.ca_pem, **at)
        rule = {
            "name": "main", "kind": "model-registry", "url": registry.url,
            "ca_bundle": str(certificates.ca), "client_cert_file": str(certificates.chain),
            "client_key_file": str(certificates.key),
        }  # fmt: skip
        assert (await name(uri, rule, identity="daemon")).is_credentialed
    finally:
        registry.close()


@pytest.mark.parametrize("trust", ["unverified", "authority"])
def test_a_certificate_is_unverified_for_s3_alone(
    tmp_path: Path, registry: ModelRegistry, certificates: Certificates, trust: str
):
    context = certificates.server_context()
    store = ModelRegistry(context)
    try:
        registry.add("iris", "v1", f"{store.url}/models/w.bin")
        options: dict[str, Any] = {"registry": registry.url, "max_attempts": 1}
        if trust == "unverified":
            options["verify"] = False
        else:
            options["ca_pem"] = certificates.ca_pem
        headers = {"headers": {store.host.partition(":")[0]: {"Authorization": "secret"}}}
        with running(tmp_path) as daemon:
            answer = daemon.ask("model-registry://iris", credentials=headers, options=options)
        if trust == "unverified":
            assert answer.json()["code"] == "origin_tls"
            assert not store.asked
        else:
            assert answer.json()["code"] == "not_found"
            assert store.asked[0][2]["authorization"] == "secret"
    finally:
        store.close()


@needs_root
def test_the_daemons_identity_is_not_lured_to_a_server_that_a_registry_names(
    tmp_path: Path, registry: ModelRegistry, other_registry: ModelRegistry
):
    """The registry's writer has a server of its own, here another registry's."""
    registry.add("iris", "v1", f"s3://bucket/m?endpoint={other_registry.url}")
    keys = {"AWS_ACCESS_KEY_ID": "daemons-key", "AWS_SECRET_ACCESS_KEY": "daemons-secret"}
    settings = {"ACCESS_SHARE_IDENTITY": "true", "FRESHNESS_INTERVAL": "0"}
    with running(tmp_path, keys, **settings) as daemon:
        body = {"uri": "model-registry://iris", "options": {"registry": registry.url}}
        as_other_uid(daemon, body)
        seen = list(other_registry.asked)
        assert seen
        assert all("authorization" not in sent for _, _, sent in seen)


def test_passes_for_a_server_of_the_callers_choice_are_not_shown_to_the_registrys(
    tmp_path: Path, registry: ModelRegistry, other_registry: ModelRegistry
):
    registry.add("iris", "v1", f"{other_registry.url}/models/w.bin")
    credentials: dict[str, Any] = {
        "registry_token": "for-the-registry", "username": "ada", "password": "for-a-git-server",
        "token": "for-a-hub", "headers": {"elsewhere.example": {"Authorization": "elsewhere"}},
    }  # fmt: skip
    with running(tmp_path) as daemon:
        options = {"registry": registry.url}
        daemon.ask("model-registry://iris", credentials=credentials, options=options)
    assert any(sent.get("authorization") for _, _, sent in registry.asked)
    assert other_registry.asked
    assert all("authorization" not in sent for _, _, sent in other_registry.asked)
