"""KServe's ClusterStorageContainer: its own shape, and what comes of it in a pod."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cachd.environment import CLIENT_VARIABLES
from cachd.sources.registry import OWN_PREFIX
from tests.chart.rendering import CHART, Object, container_of, of_kind, pod_of, refusal, render
from tests.servers.require import program

POD = Path(__file__).with_name("kserve_pod.yaml")
ENABLED = "storageContainer.enabled=true"
VALUES = CHART / "ci/kserve-values.yaml"

# pkg/apis/serving/v1alpha1/storage_container_types.go in kserve/kserve.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["container", "supportedUriFormats"],
    "additionalProperties": False,
    "properties": {
        "container": {"type": "object", "required": ["name", "image"]},
        "supportedUriFormats": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {"prefix": {"type": "string"}, "regex": {"type": "string"}},
            },
        },
        "workloadType": {"enum": ["initContainer", "localModelDownloadJob"]},
        "supportsMultiModelDownload": {"type": "boolean"},
    },
}


def storage_container(name: str = "cachd", *settings: str, values: Path | None = None) -> Object:
    objects = of_kind(render(*settings, values=values), "ClusterStorageContainer")
    (found,) = [item for item in objects if item["metadata"]["name"] == name]
    return found


def merged(container: Object, pod: Object, folder: Path) -> Object:
    """The pod with ``container`` merged over its init container by Kubernetes' strategic merge, as
    KServe does it (MergeContainerWithPatch)."""
    kubectl = program("kubectl", "kubernetes-client")
    file = folder / "pod.yaml"
    file.write_text(yaml.safe_dump(pod))
    patch = {"spec": {"initContainers": [container]}}
    done = subprocess.run(
        [kubectl, "patch", "--local", "--type=strategic", f"--filename={file}",
         f"--patch={json.dumps(patch)}", "--output=json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "KUBECONFIG": "/dev/null"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: Object = json.loads(done.stdout)
    return result


def pod(**spec: Any) -> Object:
    """KServe's pod; ``spec`` gives volumes that the service or its runtime brings."""
    found: Object = yaml.safe_load(POD.read_text())
    for volume in spec.get("volumes", []):
        others = [item for item in found["spec"]["volumes"] if item["name"] != volume["name"]]
        found["spec"]["volumes"] = [*others, volume]
    return found


SOCKET = {"name": "cachd", "hostPath": {"path": "/run/cachd", "type": "Directory"}}
CLAIM = {"name": "cachd", "persistentVolumeClaim": {"claimName": "cachd-socket"}}


def check_pod(found: Object) -> None:
    kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)
    volumes = {volume["name"] for volume in found["spec"]["volumes"]}
    for container in (*found["spec"]["initContainers"], *found["spec"]["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_views_may_be_all_there_is() -> None:
    objects = render(
        ENABLED,
        "storageContainer.prefixes=null",
        "storageContainer.view.enabled=true",
        "storageContainer.view.prefixes={cachd+s3://}",
    )
    (only,) = of_kind(objects, "ClusterStorageContainer")
    assert only["metadata"]["name"] == "cachd-view"


def test_it_is_off_until_it_is_wanted() -> None:
    assert of_kind(render(), "ClusterStorageContainer") == []


@pytest.mark.parametrize("name", ["cachd", "cachd-view"])
def test_it_has_kserve_s_shape(name: str) -> None:
    found = storage_container(name, values=VALUES)
    assert found["apiVersion"] == "serving.kserve.io/v1alpha1"
    jsonschema.validate(found["spec"], SCHEMA)
    assert found["spec"]["supportsMultiModelDownload"] is (name == "cachd")
    container = found["spec"]["container"]
    assert container["name"] == "storage-initializer", "KServe looks for this name"
    assert not {"args", "command"} & container.keys(), "a list of args would replace the URI"


# config/storagecontainers/default.yaml in kserve/kserve; the regular expressions aren't anchored.
KSERVE_PREFIXES = ("gs://", "s3://", "hdfs://", "hf://", "modelscope://", "webhdfs://")
KSERVE_REGEXES = (
    r"https://(.+?).blob.core.windows.net/(.+)",
    r"https://(.+?).file.core.windows.net/(.+)",
    r"https?://(.+)/(.+)",
)


def test_every_prefix_by_default_is_cachd_s_alone_and_one_that_it_can_serve() -> None:
    groups = ("cachd.sources", "cachd.registries")
    schemes = {entry.name for group in groups for entry in entry_points(group=group)}
    formats = storage_container("cachd", ENABLED)["spec"]["supportedUriFormats"]
    prefixes = [item["prefix"] for item in formats]
    assert prefixes
    for prefix in prefixes:
        assert prefix.removeprefix(OWN_PREFIX).removesuffix("://") in schemes
        uri = f"{prefix}host/bucket/model"
        assert not uri.startswith(KSERVE_PREFIXES)
        assert not any(re.search(regex, uri) for regex in KSERVE_REGEXES)


def test_where_registries_are_is_told_to_the_init_container() -> None:
    told = variables(
        "storageContainer.modelRegistry=registry.kubeflow:8080",
        "storageContainer.mlflow=https://mlflow.example",
    )
    assert told["MODEL_REGISTRY_BASE_URL"]["value"] == "registry.kubeflow:8080"
    assert told["MLFLOW_TRACKING_URI"]["value"] == "https://mlflow.example"
    assert not set(variables()) & {"MODEL_REGISTRY_BASE_URL", "MLFLOW_TRACKING_URI"}


def test_no_prefix_is_claimed_twice() -> None:
    formats = [
        item
        for name in ("cachd", "cachd-view")
        for item in storage_container(name, values=VALUES)["spec"]["supportedUriFormats"]
    ]
    assert len(formats) == len({json.dumps(item) for item in formats})


OVER_TCP = (
    ENABLED,
    "storageContainer.api.enabled=true",
    "api.enabled=true",
    "api.hostPort=true",
    "api.tlsSecret=tls",
    "api.tokenSecret=token",
)


def test_over_tcp_a_pod_needs_no_volume(tmp_path: Path) -> None:
    """Way E: what the initializer needs is all in its environment."""
    container = storage_container("cachd", *OVER_TCP)["spec"]["container"]
    assert "volumeMounts" not in container
    found = merged(container, pod(), tmp_path)
    check_pod(found)
    (init,) = found["spec"]["initContainers"]
    assert [mount["mountPath"] for mount in init["volumeMounts"]] == ["/mnt/models"]
    names = [item["name"] for item in init["env"]]
    assert "CACHD_SOCKET" not in names
    assert names.index("HOST_IP") < names.index("CACHD_API"), "the first is expanded in the second"
    environ = {item["name"]: item for item in init["env"]}
    assert environ["CACHD_API"]["value"] == "https://$(HOST_IP):9443"
    for name, key in (("CACHD_API_TOKEN", "token"), ("CACHD_API_CA", "ca.crt")):
        assert environ[name]["valueFrom"] == {"secretKeyRef": {"name": "cachd-api", "key": key}}


@pytest.mark.parametrize(
    ("left_out", "added"),
    [("api.hostPort=true", ""), ("api.enabled=true", ""), ("", "storageContainer.token=true")],
)
def test_what_can_not_be_over_tcp_is_refused(left_out: str, added: str) -> None:
    options = [option for option in (*OVER_TCP, added) if option and option != left_out]
    assert "storageContainer.api.enabled" in refusal(*options)


@pytest.mark.parametrize("volume", [SOCKET, CLAIM], ids=["hostPath", "claim"])
def test_the_pod_that_comes_of_it(volume: Object, tmp_path: Path) -> None:
    """The socket's volume is the service's (way A) or its runtime's (way B): KServe merges either
    into the pod's volumes before the init container is made."""
    container = storage_container("cachd", ENABLED)["spec"]["container"]
    before = pod(volumes=[volume])
    found = merged(container, before, tmp_path)
    check_pod(found)
    (init,) = found["spec"]["initContainers"]
    (plain,) = before["spec"]["initContainers"]
    assert init["name"] == "storage-initializer"
    assert init["args"] == ["cachd+s3://models/llama", "/mnt/models"]
    assert "command" not in init
    assert init["image"] == container_of(render())["image"]
    assert init["terminationMessagePolicy"] == "FallbackToLogsOnError"
    mounts = {mount["mountPath"]: mount for mount in init["volumeMounts"]}
    assert mounts == {
        "/mnt/models": {"name": "kserve-provision-location", "mountPath": "/mnt/models"},
        "/run/cachd": {"name": "cachd", "mountPath": "/run/cachd", "readOnly": True},
    }
    environ = {item["name"]: item for item in init["env"]}
    for item in plain["env"]:
        assert environ[item["name"]] == item, "credentials stay as KServe put them"
    assert environ["CACHD_SOCKET"]["value"] == "/run/cachd/cachd.sock"
    fields = {
        name: item["valueFrom"]["fieldRef"]["fieldPath"]
        for name, item in environ.items()
        if "fieldRef" in item.get("valueFrom", {})
    }
    assert fields["POD_UID"] == "metadata.uid"
    assert fields["NODE_NAME"] == "spec.nodeName"
    assert init["resources"]["limits"] == {"cpu": "1", "memory": "256Mi"}
    (server,) = found["spec"]["containers"]
    assert server == before["spec"]["containers"][0]


def test_a_pod_whose_volume_nobody_brings_would_be_refused(tmp_path: Path) -> None:
    container = storage_container("cachd", ENABLED)["spec"]["container"]
    with pytest.raises(AssertionError):
        check_pod(merged(container, pod(), tmp_path))


def test_several_models_in_one_pod_keep_their_pairs(tmp_path: Path) -> None:
    before = pod(volumes=[SOCKET])
    pairs = ["cachd+s3://m/a", "/mnt/models/a", "cachd+s3://m/b", "/mnt/models/b"]
    before["spec"]["initContainers"][0]["args"] = pairs
    container = storage_container("cachd", ENABLED)["spec"]["container"]
    (init,) = merged(container, before, tmp_path)["spec"]["initContainers"]
    assert init["args"] == pairs


def test_a_view_is_this_pod_s_own_directory(tmp_path: Path) -> None:
    container = storage_container("cachd-view", values=VALUES)["spec"]["container"]
    views = {
        "name": "kserve-provision-location",
        "hostPath": {"path": "/var/cache/cachd/views", "type": "Directory"},
    }
    token = {
        "name": "cachd-token",
        "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "cachd"}}]},
    }
    own = {"name": "kserve-provision-location", "mountPath": "/mnt/models"}
    own |= {"subPathExpr": "$(POD_UID)", "readOnly": True}
    before = pod(volumes=[SOCKET, views, token])
    (server,) = before["spec"]["containers"]  # as docs/kserve.md has the service
    server["volumeMounts"] = [own]
    server["env"] = [{"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]
    found = merged(container, before, tmp_path)
    check_pod(found)
    (init,) = found["spec"]["initContainers"]
    (destination,) = [m for m in init["volumeMounts"] if m["mountPath"] == "/mnt/models"]
    assert destination == own
    assert found["spec"]["containers"] == before["spec"]["containers"]
    environ = {item["name"]: item for item in init["env"]}
    assert environ["CACHD_VIEW"]["value"] == "always"
    assert environ["POD_UID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"
    assert {m["mountPath"] for m in init["volumeMounts"]} >= {"/var/run/secrets/cachd"}


def variables(*settings: str) -> dict[str, Object]:
    container = storage_container("cachd", ENABLED, *settings)["spec"]["container"]
    return {item["name"]: item for item in container["env"]}


def test_a_service_says_its_wishes_by_annotation() -> None:
    def annotation(name: str) -> str:
        return f"metadata.annotations['{name}']"

    found = {
        name: item["valueFrom"]["fieldRef"]["fieldPath"]
        for name, item in variables().items()
        if "annotations" in str(item)
    }
    assert found["CACHD_READONLY"] == annotation("storage.kserve.io/readonly")
    assert found["CACHD_ALLOW"] == annotation("cachd.dev/allow")
    assert "CACHD_ALLOW" not in variables("storageContainer.annotations.CACHD_ALLOW=null")


@pytest.mark.parametrize("name", ["cachd", "cachd-view"])
def test_the_initializer_knows_every_variable_that_it_is_given(name: str) -> None:
    container = storage_container(name, values=VALUES)["spec"]["container"]
    found = {item["name"] for item in container["env"] if item["name"].startswith("CACHD_")}
    assert found
    assert found <= CLIENT_VARIABLES


def test_the_initializer_waits_longer_than_a_daemon_takes_to_restart() -> None:
    spec = pod_of(render())
    patience = float(variables()["CACHD_WAIT_DAEMON"]["value"])
    assert patience >= 2 * spec["terminationGracePeriodSeconds"]


def test_read_write_may_be_the_cluster_s_default() -> None:
    assert variables("storageContainer.readOnly=false")["CACHD_READONLY"] == {
        "name": "CACHD_READONLY",
        "value": "false",
    }


def test_the_initializer_fits_restricted_namespaces_and_has_not_the_daemon_s_uid() -> None:
    context = storage_container("cachd", ENABLED)["spec"]["container"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["runAsUser"] != pod_of(render())["securityContext"]["runAsUser"]
    openshift = storage_container(
        "cachd", ENABLED, "storageContainer.securityContext.runAsUser=null"
    )
    assert "runAsUser" not in openshift["spec"]["container"]["securityContext"]


def test_the_initializer_s_image_is_the_daemon_s_unless_another_is_named() -> None:
    def image(*settings: str) -> str:
        found = storage_container("cachd", ENABLED, *settings)
        return str(found["spec"]["container"]["image"])

    digest = "sha256:" + "cd" * 32
    assert image() == container_of(render())["image"]
    assert image(f"image.digest={digest}") == f"cachd@{digest}"
    assert image("storageContainer.image.tag=0.0.9") == "cachd:0.0.9", "one minor behind"
    assert (
        image("storageContainer.image.repository=x/y", f"storageContainer.image.digest={digest}")
        == f"x/y@{digest}"
    )
