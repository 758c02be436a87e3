"""Real counterparts: Kubeflow's Python client registers models in the fake that the other tests
use, and MLflow's own server keeps a model that MLflow itself has logged."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import eventually, running
from tests.servers.modelregistry import ModelRegistry
from tests.servers.peers import peer_program, peer_python
from tests.servers.ports import free_ports
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_REGISTER = """
import sys
from model_registry import ModelRegistry
from model_registry.utils import s3_uri_from
host, port, endpoint, bucket = sys.argv[1:]
registry = ModelRegistry(
    "http://" + host, int(port), author="Ada", is_secure=False, user_token="unused"
)
for number in ("1", "2"):
    registry.register_model(
        "iris",
        s3_uri_from(f"m/{number}", bucket, endpoint=endpoint, region="us-east-1"),
        version="v" + number,
        model_format_name="onnx",
        model_format_version="1",
        description="of flowers",
        metadata={"accuracy": 0.93, "stage": "prod"},
    )
print(registry.get_model_artifact("iris", "v2").uri)
"""

_LOG = """
import sys
import mlflow
from mlflow import MlflowClient
mlflow.set_tracking_uri(sys.argv[1])
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, model_input):
        return model_input
for _ in range(2):
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Model(), registered_model_name="iris",
            pip_requirements=["mlflow"],
        )
MlflowClient().set_registered_model_alias("iris", "champion", "1")
print(info.model_id)
"""


def run(script: str, *arguments: str) -> str:
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    done = subprocess.run(
        [peer_python(), "-c", script, *arguments],
        capture_output=True, text=True, timeout=240, env=environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_what_kubeflows_client_registers(
    tmp_path: Path, registry: ModelRegistry, seaweed: S3Server
):
    bucket = seaweed.make_bucket({"m/1/w.bin": b"one", "m/2/w.bin": b"two"})
    uri = run(_REGISTER, "127.0.0.1", str(registry.port), seaweed.endpoint, bucket)
    assert uri == f"s3://{bucket}/m/2?endpoint={seaweed.endpoint}&defaultRegion=us-east-1"
    keys = {"access_key_id": seaweed.access_key, "secret_access_key": seaweed.secret_key}
    with running(tmp_path) as daemon:
        for name, body in (("iris", b"two"), ("iris/v1", b"one")):
            answer = daemon.ask(f"model-registry://{registry.host}/{name}", credentials=keys).json()
            assert Path(answer["path"], "w.bin").read_bytes() == body
        manifest = next(daemon.root.glob("snapshots/*/*/manifest.json")).read_text()
        for told in ('"author":"Ada"', '"format":"onnx"', '"property.accuracy":"0.93"'):
            assert told in manifest


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    command = [
        peer_program("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder}/m.db", "--serve-artifacts",
        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1",
    ]  # fmt: skip
    log = (folder / "log").open("wb")
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # A group of its own: it has workers and job runners of its own, which outlive it.
    server = subprocess.Popen(
        command, stdout=log, stderr=log, env=environ, cwd=folder, start_new_session=True
    )
    try:
        eventually(lambda: b"startup complete" in (folder / "log").read_bytes(), 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)
        log.close()


def test_what_mlflow_logged_itself(tmp_path: Path, mlflow_server: str):
    model_id = run(_LOG, mlflow_server)
    with running(tmp_path, {"MLFLOW_TRACKING_URI": mlflow_server}) as daemon:
        answers = {
            uri: daemon.ask(uri).json()
            for uri in (
                "models:/iris/1", "mlflow://iris@champion", "mlflow://iris/champion",
                "models:/iris/2", "mlflow://iris/latest", f"models:/{model_id}",
            )
        }  # fmt: skip
        assert all(answer.get("result") == "miss" for answer in answers.values()), answers
        first, *others = [answer["revision"] for answer in answers.values()]
        assert others[:2] == [first, first]
        assert len(set(others[2:])) == 1
        assert first not in others[2:]
        for uri, answer in answers.items():
            names = {path.name for path in Path(answer["path"]).iterdir()}
            assert {"MLmodel", "python_model.pkl", "requirements.txt"} <= names, uri
        newest = Path(answers["mlflow://iris/latest"]["path"], "MLmodel").read_text()
        assert model_id in newest
        assert daemon.ask("models:/iris/9").json()["code"] == "not_found"
        assert daemon.ask("mlflow://iris@nobody").json()["code"] == "not_found"
