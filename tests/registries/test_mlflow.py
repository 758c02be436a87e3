"""Which version and which artifact a name of an MLflow server means, and its artifact proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cachd.credentials import Credentials, SourceOptions
from cachd.errors import CredentialsInvalid, NotFound, UriInvalid
from cachd.registries.mlflow_artifacts import MlflowArtifacts
from cachd.settings import SourcesSettings
from tests.harness import running
from tests.registries.asking import name
from tests.servers.mlflow import Mlflow

ID = "m-" + "0a" * 16


@pytest.fixture
def mlflow() -> Iterator[Mlflow]:
    made = Mlflow()
    yield made
    made.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("uri", "artifact"),
    [
        ("mlflow://iris", "s3://b/10"),
        ("mlflow://iris/latest", "s3://b/10"),
        ("mlflow://iris/9", "s3://b/9"),
        ("mlflow://iris/champion", "s3://b/9"),
        ("models://iris@champion", "s3://b/9"),
        (f"models://{ID}", "gs://b/logged"),
        ("mlflow://by-id/1", "gs://b/logged"),
    ],
)
async def test_what_a_name_means(mlflow: Mlflow, uri: str, artifact: str):
    mlflow.versions["iris"] = {"9": "s3://b/9", "10": "s3://b/10"}
    mlflow.aliases["iris"] = {"champion": "9"}
    mlflow.versions["by-id"] = {"1": f"models:/{ID}"}
    mlflow.logged[ID] = "gs://b/logged"
    assert (await name(uri, registry=mlflow.url)).uri == artifact


@pytest.mark.asyncio
async def test_what_is_not_there(mlflow: Mlflow):
    mlflow.versions["iris"] = {"1": "s3://b/1"}
    mlflow.pending.add("iris/1")
    for uri, said in (
        ("mlflow://other", "no model 'other'"),
        ("mlflow://iris/2", "has no version 2"),
        ("mlflow://iris@nobody", "has no alias 'nobody'"),
        ("mlflow://iris/1", "is PENDING_REGISTRATION"),
        (f"models://{ID}", "no logged model"),
    ):
        with pytest.raises(NotFound, match=said):
            await name(uri, registry=mlflow.url)
    mlflow.versions["far"] = {"1": "mlflow-artifacts://elsewhere:1/0/a"}
    with pytest.raises(NotFound, match="another server's proxy"):
        await name("mlflow://far/1", registry=mlflow.url)


@pytest.mark.asyncio
async def test_the_daemons_environment_has_a_pass_for_its_own_server(mlflow: Mlflow):
    mlflow.versions["iris"] = {"1": "s3://b/1"}
    mlflow.authorization = "Basic YWRhOnNlY3JldA=="
    environ = {
        "MLFLOW_TRACKING_URI": mlflow.url + "/",
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": "secret",
    }
    found = await name("mlflow://iris/1", environ=environ, identity="daemon")
    assert found.metadata["property.stage"] == "prod"
    wrong = Credentials(registry_username="ada", registry_password="wrong")
    with pytest.raises(CredentialsInvalid, match="registry_username"):
        await name("mlflow://iris/1", registry=mlflow.url, credentials=wrong)
    apart = {
        **environ,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
        "MLFLOW_REGISTRY_URI": mlflow.url,
    }
    assert (await name("mlflow://iris/1", environ=apart, identity="daemon")).uri == "s3://b/1"
    # Not for another's.
    elsewhere = {**environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    with pytest.raises(Exception, match="no credentials"):
        await name(f"mlflow://{mlflow.host}/iris/1", environ=elsewhere, identity="daemon")


def test_artifacts_behind_the_proxy_take_the_registrys_pass(tmp_path: Path, mlflow: Mlflow):
    mlflow.authorization = "Bearer ml-token-1"
    mlflow.versions["iris"] = {"1": "mlflow-artifacts:/0/m 1/artifacts"}
    mlflow.versions["bad"] = {"1": "mlflow-artifacts:/0/bad"}
    mlflow.files = {
        "0/m 1/artifacts/MLmodel": b"flavors", "0/m 1/artifacts/data/w é.bin": b"w" * 300_000,
        "0/m 1/artifacts/data/empty": b"", "0/m 1-other/artifacts/x": b"x", "0/bad/x": b"x",
    }  # fmt: skip
    body = {"credentials": {"registry_token": "ml-token-1"}, "options": {"registry": mlflow.url}}
    with running(tmp_path, FRESHNESS_INTERVAL="3600") as daemon:
        answer = daemon.ask("mlflow://iris/1", **body).json()
        assert answer["result"] == "miss", answer
        found = {
            path.relative_to(answer["path"]).as_posix(): path.stat().st_size
            for path in Path(answer["path"]).rglob("*")
            if path.is_file()
        }
        assert found == {"MLmodel": 7, "data/w é.bin": 300_000, "data/empty": 0}
        assert answer["validated"] is False
        assert daemon.ask("mlflow://iris/1", **body).json()["result"] == "hit"
        for token in ("wrong-token-3", ""):
            wrong = {**body, "credentials": {"registry_token": token}}
            assert daemon.ask("mlflow://iris/1", **wrong).status == 401
        mlflow.listed["0/bad"] = [{"path": "../up", "is_dir": False, "file_size": 1}]
        assert daemon.ask("mlflow://bad/1", **body).json()["code"] == "path_unsafe"
        assert "ml-token-1" not in daemon.log()


def test_the_proxys_own_scheme_is_nobodys_to_ask():
    with pytest.raises(UriInvalid, match="belongs to a model"):
        MlflowArtifacts().locate(
            "mlflow-artifacts://host/0/a", SourceOptions(), SourcesSettings(), {}
        )
