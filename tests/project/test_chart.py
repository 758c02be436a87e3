"""The chart, by real helm and Kubernetes' own schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cachd.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/cachd"
HELM = Path(sys.executable).parent / "helm"
KUBERNETES_VERSIONS = ("1.28", "1.33", kubernetes_validate.latest_version())
VALUES_FILES = [None, *sorted((CHART / "ci").glob("*-values.yaml"))]

pytestmark = pytest.mark.skipif(not HELM.exists(), reason="no helm beside this Python")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=30)


def render(*settings: str, values: Path | None = None) -> dict[str, dict[str, Any]]:
    """The objects of a release called ``nodes`` by kind."""
    arguments = [
        *(f"--set={setting}" for setting in settings),
        *([f"-f={values}"] if values else []),
    ]
    done = helm("template", "nodes", str(CHART), "--namespace=cache", *arguments)
    assert done.returncode == 0, done.stderr
    return {item["kind"]: item for item in yaml.safe_load_all(done.stdout) if item}


def refusal(*settings: str) -> str:
    done = helm("template", "nodes", str(CHART), *(f"--set={setting}" for setting in settings))
    assert done.returncode != 0
    return done.stderr


def pod_of(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["DaemonSet"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("values", VALUES_FILES, ids=lambda path: path.name if path else "default")
def test_lint_and_kubernetes_schemas(values: Path | None) -> None:
    done = helm("lint", "--strict", str(CHART), *([f"-f={values}"] if values else []))
    assert done.returncode == 0, done.stdout
    for item in render(values=values).values():
        if item["apiVersion"].startswith("monitoring.coreos.com/"):
            continue
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)


def test_daemon_is_unprivileged_and_bounded() -> None:
    pod = pod_of(render())
    (container,) = pod["containers"]
    assert "initContainers" not in pod
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] >= Settings().drain_timeout + 10
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_probes_go_to_the_health_listener() -> None:
    (container,) = pod_of(render("health.port=9555"))["containers"]
    environ = {item["name"]: item["value"] for item in container["env"]}
    assert environ["CACHD_LISTEN_HEALTH_ADDRESS"] == "0.0.0.0:9555"
    assert container["ports"] == [{"name": "health", "containerPort": 9555}]
    paths = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert paths == {
        "startupProbe": {"path": "/livez", "port": "health"},
        "readinessProbe": {"path": "/readyz", "port": "health"},
        "livenessProbe": {"path": "/livez", "port": "health"},
    }


def test_directories_are_made_only_where_somebody_gives_them_an_owner() -> None:
    def types(*settings: str) -> set[str]:
        volumes = pod_of(render(*settings))["volumes"]
        return {item["hostPath"]["type"] for item in volumes if "hostPath" in item}

    assert types() == {"Directory"}
    assert types("prepareDirectories.enabled=true") == {"DirectoryOrCreate"}
    (prepare,) = pod_of(render("prepareDirectories.enabled=true"))["initContainers"]
    assert prepare["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}


def test_preparing_gives_the_directories_to_cachd(tmp_path: Path) -> None:
    (prepare,) = pod_of(render("prepareDirectories.enabled=true"))["initContainers"]
    python, flag, program, uid, gid, *paths = prepare["command"]
    assert (python, flag, uid, gid) == ("python", "-c", "10001", "10001")
    assert paths == [mount["mountPath"] for mount in prepare["volumeMounts"]]
    owner = tmp_path.stat()
    ids = (str(owner.st_uid), str(owner.st_gid))  # what anybody may "change" to
    subprocess.run([sys.executable, flag, program, *ids, str(tmp_path)], check=True, timeout=20)


def test_configuration_arrives_unchanged_and_is_valid(tmp_path: Path) -> None:
    values = CHART / "ci/prepared-values.yaml"
    objects = render(values=values)
    text = objects["ConfigMap"]["data"]["config.yaml"]
    expected = yaml.safe_load((CHART / "values.yaml").read_text())["config"]
    for section, chosen in yaml.safe_load(values.read_text())["config"].items():
        both = isinstance(chosen, dict) and section in expected
        expected[section] = {**expected[section], **chosen} if both else chosen
    assert json.loads(text) == expected
    file = tmp_path / "config.yaml"
    file.write_text(text)
    (container,) = pod_of(objects)["containers"]
    environ = {item["name"]: item["value"] for item in container["env"]}
    settings = load_settings(file, environ)
    assert settings.access.share_identity
    # With the chart kubelet's thresholds are heeded, and without it they aren't known.
    assert settings.store.kubelet_eviction.floor(100) == 18
    assert str(settings.store.root) == "/var/cache/cachd"
    assert str(settings.listen.admin_socket) == "/run/cachd-admin/admin.sock"


def test_a_changed_configuration_restarts_the_pods() -> None:
    def checksum(*settings: str) -> str:
        template = render(*settings)["DaemonSet"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum()
    assert checksum() != checksum("config.offline=true")


def test_pods_find_no_administrators_socket_beside_theirs() -> None:
    (container,) = pod_of(render())["containers"]
    environ = {item["name"]: Path(item["value"]) for item in container["env"]}
    mounts = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    sockets = environ["CACHD_SOCKET"].parent, environ["CACHD_ADMIN_SOCKET"].parent
    assert sockets[0] != sockets[1]
    assert {*sockets, environ["CACHD_STORE_ROOT"]} <= mounts


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("terminationGracePeriodSeconds=29", "set it to at least 30"),
        ("config.drain_timeout=60", "set it to at least 70"),
        ("config.drain_timeout=36", "set it to at least 46"),
        ("config.store.root=/data", "set cache.hostPath.path"),
        ("config.listen.socket=/x", "set socket.hostPath.path"),
        ("config.listen.health_address=x:1", "set health.port"),
        ("adminSocket.hostPath.path=/run/cachd", "are the same"),
        ("config.store.qouta=1", "qouta"),
        ("config.store.watch_interval=0", "watch_interval"),
        ("config.store.quota=lots", "quota"),
        ("config.store.quota=300%", "quota"),
        ("resurces.limits.memory=1", "resurces"),
        ("cache.hostPath.path=relative", "cache.hostPath.path"),
        ("podSecurityContext.runAsUser=0", "runAsUser"),
        ("image.digest=latest", "image.digest"),
    ],
)
def test_wrong_values_are_refused_with_the_way_out(setting: str, said: str) -> None:
    assert said in refusal(setting)


def test_image_tag_is_the_release_unless_a_digest_is_given() -> None:
    digest = "sha256:" + "ab" * 32
    images = [
        pod_of(render(*settings))["containers"][0]["image"]
        for settings in ([], ["image.tag=next"], [f"image.digest={digest}"])
    ]
    release = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images == [f"cachd:{release}", "cachd:next", f"cachd@{digest}"]


def test_every_value_is_described_and_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values.keys() == schema["properties"].keys() - {"global"}
    lines = (CHART / "values.yaml").read_text().splitlines()
    undescribed = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line[:1].isalpha() and not line.endswith(":") and not before.startswith("#")
    ]
    assert undescribed == []


def test_schema_of_config_is_that_of_the_settings() -> None:
    script = ROOT / "scripts/generate_chart_schema.py"
    subprocess.run([sys.executable, script, "--check"], check=True, timeout=30)
