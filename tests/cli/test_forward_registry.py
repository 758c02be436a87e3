"""Where registries are and whose passes go along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cachd.cli.forward import gather
from cachd.errors import InvalidError
from tests.cli.mounted import PEM, reader

FILES = {"/t": "tok\n", "/ca": PEM, "/cert": "cert", "/key": "key"}
read = reader(FILES)
BASE = {"MODEL_REGISTRY_BASE_URL": "mr.example:8080"}
AT = {"registry": "http://mr.example:8080"}
ML = {"MLFLOW_TRACKING_URI": "https://ml.example"}
TOKEN = {"MODEL_REGISTRY_TOKEN": "tok"}


def host_of(namespace: str, service: str = "model-registry-service") -> str:
    return f"{service}.{namespace}.svc.cluster.local"


@pytest.mark.parametrize(
    ("uri", "environ", "credentials", "options"),
    [
        ("model-registry://iris", {}, {}, {}),
        ("model-registry://iris", BASE, {}, AT),
        ("model-registry://iris", {**BASE, "MODEL_REGISTRY_SCHEME": "https"}, {},
         {"registry": "https://mr.example:8080"}),
        ("model-registry://iris?namespace=a", {}, {}, {}),
        ("model-registry://iris?namespace=a", BASE, {},
         {"registry": f"http://{host_of('a')}:8080"}),
        ("model-registry://iris?namespace=a",
         {"MODEL_REGISTRY_SERVICE_NAME": "mr", "MODEL_REGISTRY_CLUSTER_DOMAIN": "local",
          "MODEL_REGISTRY_BASE_URL": "https://x:9"}, {}, {"registry": "https://mr.a.local:9"}),
        ("model-registry://iris", {**BASE, **TOKEN, "MODEL_REGISTRY_USER": "ada"},
         {"registry_token": "tok", "registry_user": "ada"}, AT),
        ("model-registry://iris", {**BASE, "MODEL_REGISTRY_TOKEN_FILE": "/t"},
         {"registry_token": "tok"}, AT),
        ("model-registry://iris",
         {**BASE, "MODEL_REGISTRY_CA_FILE": "/ca", "MODEL_REGISTRY_CLIENT_CERT_FILE": "/cert",
          "MODEL_REGISTRY_CLIENT_KEY_FILE": "/key"},
         {"registry_client_pem": "cert\nkey"}, {**AT, "registry_ca_pem": PEM}),
        ("model-registry://h:1/iris", TOKEN, {"registry_token": "tok"}, {}),
        ("model-registry://mr.example:8080/iris", {**BASE, **TOKEN},
         {"registry_token": "tok"}, AT),
        ("mlflow://iris/1", ML, {}, {"registry": "https://ml.example"}),
        ("models:/iris/1", {**ML, "MLFLOW_TRACKING_TOKEN": "tok"},
         {"registry_token": "tok"}, {"registry": "https://ml.example"}),
        ("mlflow://iris", {**ML, "MLFLOW_TRACKING_TOKEN": "tok",
                           "MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pw"},
         {"registry_username": "ada", "registry_password": "pw"},
         {"registry": "https://ml.example"}),
        ("mlflow://iris", {"MLFLOW_TRACKING_URI": "databricks"}, {}, {}),
        ("mlflow://iris", {**ML, "MLFLOW_TRACKING_INSECURE_TLS": "true",
                           "MLFLOW_S3_ENDPOINT_URL": "http://minio:9000"},
         {}, {"registry": "https://ml.example", "registry_verify": False,
              "endpoint": "http://minio:9000"}),
        ("mlflow://iris", {**ML, "MLFLOW_S3_ENDPOINT_URL": "http://minio:9000",
                           "AWS_ENDPOINT_URL": "http://other:9000"},
         {}, {"registry": "https://ml.example", "endpoint": "http://other:9000"}),
        ("mlflow://iris", {**ML, "HF_ENDPOINT": "https://hub.example", "HF_TOKEN": "hf"},
         {"headers": {"hub.example": {"Authorization": "Bearer hf"}}}, {"registry": "https://ml.example"}),
        ("model-registry://iris",
         {**BASE, "STORAGE_CONFIG": json.dumps({"type": "s3", "bucket": "b"})},
         {}, {**AT, "root": "s3://b"}),
        ("s3://bucket/m", {**BASE, **TOKEN, **ML}, {}, {}),
    ],
)  # fmt: skip
def test_what_goes_along(
    uri: str, environ: dict[str, str], credentials: dict[str, Any], options: dict[str, Any]
):
    found = gather(environ, uri, read=read)
    assert (found.credentials, found.options) == (credentials, options)
    assert not found.warnings


def test_a_pass_for_one_registry_is_not_shown_to_another():
    found = gather({**BASE, **TOKEN}, "model-registry://evil.example/iris", read=read)
    assert found.credentials == {}
    assert "aren't sent" in found.warnings[0]


def test_a_file_that_is_not_there():
    environ = {"MODEL_REGISTRY_TOKEN_FILE": "/none"}
    with pytest.raises(InvalidError, match="/none, which MODEL_REGISTRY_TOKEN_FILE names"):
        gather(environ, "model-registry://iris", read=read)
