"""The logins of a pod at its registries: what goes along, and to whom."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cachd.cli.forward import gather
from cachd.cli.forward_values import Overrides
from tests.cli.mounted import PEM, reader


def config(**auths: str) -> str:
    entries = {
        host.replace("_", "."): {"auth": base64.b64encode(text.encode()).decode()}
        for host, text in auths.items()
    }
    return json.dumps({"auths": entries})


FILES = {
    "/mnt/oci-fetch-auth/config.json": config(r_example="kserve:k-word"),
    "/podman/auth.json": config(r_example="podman:p-word", other_example="other:o-word"),
    "/docker/config.json": config(r_example="docker:d-word", docker_io="hub:h-word"),
    "/helpers/config.json": json.dumps({"credsStore": "pass"}),
    "/token/config.json": json.dumps({"auths": {"r.example": {"registrytoken": "t"}}}),
    "/broken.json": "secret nonsense",
    "/certs/cabundle.crt": PEM,
}
read = reader(FILES)
URI = "oci://r.example/team/m:v1"
KSERVE = {"KSERVE_OCI_DOCKER_CONFIG": "/mnt/oci-fetch-auth/config.json"}
PODMAN = {"REGISTRY_AUTH_FILE": "/podman/auth.json"}
DOCKER = {"DOCKER_CONFIG": "/docker"}


def sent(environ: dict[str, str], uri: str = URI, **more: Any) -> Any:
    return gather(environ, uri, read=read, **more)


@pytest.mark.parametrize(
    ("environ", "username"),
    [
        ({}, None),
        (KSERVE, "kserve"),
        ({**DOCKER, **PODMAN, **KSERVE}, "kserve"),
        ({**DOCKER, **PODMAN}, "podman"),
        (DOCKER, "docker"),
        ({"HOME": "/docker"}, None),
    ],
)
def test_the_first_file_that_has_a_login(environ: dict[str, str], username: str | None) -> None:
    found = sent(environ)
    assert found.credentials.get("username") == username
    assert found.warnings == ()


@pytest.mark.parametrize("prefix", ["", "cachd+"])
@pytest.mark.parametrize("scheme", ["oci", "oci+native", "oci+fetch"])
def test_every_spelling(prefix: str, scheme: str) -> None:
    found = sent(KSERVE, f"{prefix}{scheme}://R.example/team/m@sha256:{'0' * 64}")
    assert found.credentials == {"username": "kserve", "password": "k-word"}


def test_no_login_goes_to_another_registry() -> None:
    assert sent({**PODMAN, **KSERVE}, "oci://other.example/m").credentials["username"] == "other"
    assert sent(KSERVE, "oci://other.example/m").credentials == {}
    assert sent(KSERVE, "oci://r.example:5000/m").credentials == {}
    assert sent(DOCKER, "oci://index.docker.io/a/m").credentials["username"] == "hub"
    for uri in ("s3://r.example/m", "https://r.example/m"):
        assert sent(KSERVE, uri).credentials == {}


def test_a_registry_token_is_a_header_of_its_host() -> None:
    assert sent({"DOCKER_CONFIG": "/token"}).credentials == {
        "headers": {"r.example": {"Authorization": "Bearer t"}}
    }


def test_what_is_told_to_a_person() -> None:
    (line,) = sent({"DOCKER_CONFIG": "/helpers"}).warnings
    assert "credential helper pass for r.example" in line
    (line,) = sent({"KSERVE_OCI_DOCKER_CONFIG": "/gone.json"}).warnings
    assert "can't read /gone.json (KSERVE_OCI_DOCKER_CONFIG)" in line
    (line,) = sent({"REGISTRY_AUTH_FILE": "/broken.json"}).warnings
    assert "is no JSON" in line
    assert "secret" not in line


def test_options() -> None:
    assert sent({"KSERVE_OCI_INSECURE_REGISTRY": "true"}).options == {"plain_http": True}
    assert sent({"KSERVE_OCI_INSECURE_REGISTRY": "false"}).options == {}
    bundle = {"CA_BUNDLE_CONFIGMAP_NAME": "global", "CA_BUNDLE_VOLUME_MOUNT_POINT": "/certs"}
    assert sent(bundle).options == {"ca_pem": PEM}
    assert sent({"r.example-headers": '{"X-A": "b"}'}).credentials == {
        "headers": {"r.example": {"X-A": "b"}}
    }


def test_anonymous_and_nothing() -> None:
    assert sent(KSERVE, overrides=Overrides(anonymous=True)).credentials == {"anonymous": True}
    assert sent(KSERVE, forward=False).credentials == {}


def test_a_registry_of_names_gets_every_login_by_host() -> None:
    environ = {**DOCKER, **KSERVE, "web.example-headers": '{"Authorization": "Bearer w"}'}
    headers = sent(environ, "model-registry://m/v1").credentials["headers"]
    assert headers.keys() == {"r.example", "registry-1.docker.io", "web.example"}
    shown = headers["r.example"]["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(shown) == b"kserve:k-word"
    assert headers["web.example"] == {"Authorization": "Bearer w"}
