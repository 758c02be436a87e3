"""The daemon's DaemonSet (or StatefulSet): rights, probes, volumes, what an upgrade does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from cachd.settings import Settings, load_settings, read_rules
from tests.chart.rendering import (
    CHART,
    Object,
    container_of,
    environment,
    of_kind,
    pod_of,
    render,
    the,
)

CLAIM = ("cache.type=claim", "cache.claim.name=models")
PER_NODE = ("cache.type=claimPerNode",)
PREPARED = "prepareDirectories.enabled=true"


def volumes(*settings: str) -> dict[str, dict[str, object]]:
    return {item.pop("name"): item for item in map(dict, pod_of(render(*settings))["volumes"])}


def test_daemon_is_unprivileged_and_bounded() -> None:
    pod = pod_of(render())
    container = container_of(render())
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
    assert pod["terminationGracePeriodSeconds"] >= Settings().drain_timeout + 10
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["priorityClassName"] == "system-node-critical"
    assert {item["key"] for item in pod["tolerations"]} == {"nvidia.com/gpu"}


def test_one_node_at_a_time() -> None:
    strategy = the(render(), "DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    chosen = the(render("updateStrategy.type=OnDelete"), "DaemonSet")["spec"]["updateStrategy"]
    assert chosen == {"type": "OnDelete"}


def test_no_mesh_comes_between() -> None:
    metadata = the(render(), "DaemonSet")["spec"]["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "false"
    assert metadata["annotations"]["linkerd.io/inject"] == "disabled"


def test_probes_go_to_the_health_listener() -> None:
    container = container_of(render("health.port=9555"))
    assert environment(container)["CACHD_LISTEN_HEALTH_ADDRESS"] == "0.0.0.0:9555"
    assert container["ports"] == [{"name": "health", "containerPort": 9555}]
    paths = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert paths == {
        "startupProbe": {"path": "/livez", "port": "health"},
        "readinessProbe": {"path": "/readyz", "port": "health"},
        "livenessProbe": {"path": "/livez", "port": "health"},
    }


def test_directories_are_made_only_where_somebody_gives_them_an_owner() -> None:
    def types(*settings: str) -> set[str]:
        found = [volume.get("hostPath") for volume in volumes(*settings).values()]
        return {item["type"] for item in found if isinstance(item, dict)}

    assert types() == {"Directory"}
    assert types(PREPARED) == {"DirectoryOrCreate"}
    (prepare,) = pod_of(render(PREPARED))["initContainers"]
    assert prepare["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}


def test_preparing_gives_the_directories_to_cachd(tmp_path: Path) -> None:
    (prepare,) = pod_of(render(PREPARED))["initContainers"]
    python, flag, program, uid, gid, *paths = prepare["command"]
    assert (python, flag, uid, gid) == ("python", "-c", "10001", "10001")
    assert paths == [mount["mountPath"] for mount in prepare["volumeMounts"]]
    inner = tmp_path / "model"
    inner.mkdir()
    ids = ("10001", "10001") if os.geteuid() == 0 else (str(os.getuid()), str(os.getgid()))
    command = [sys.executable, flag, program, *ids, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    assert (str(tmp_path.stat().st_uid), str(tmp_path.stat().st_gid)) == ids
    assert inner.stat().st_uid == os.getuid(), "what is inside is left alone"
    subprocess.run(command, check=True, timeout=60)


def test_a_shared_claim_has_a_directory_for_each_node() -> None:
    objects = render(*CLAIM, PREPARED, "cache.claim.directory=nodes")
    assert volumes(*CLAIM)["cache"] == {"persistentVolumeClaim": {"claimName": "models"}}
    pod = pod_of(objects)
    for container in (*pod["initContainers"], *pod["containers"]):
        mounts = [item for item in container["volumeMounts"] if item["name"] == "cache"]
        assert {mount["subPathExpr"] for mount in mounts} == {"nodes/$(NODE_NAME)"}
        (node,) = [item for item in container["env"] if item["name"] == "NODE_NAME"]
        assert node["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert pod["securityContext"]["fsGroup"] == 10001
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_a_claim_per_node_is_a_stateful_set_with_pods_apart() -> None:
    objects = render(*PER_NODE, values=CHART / "ci/claim-per-node-values.yaml")
    assert of_kind(objects, "DaemonSet") == []
    workload = the(objects, "StatefulSet")
    spec = workload["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"]) == (3, "Parallel")
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "cache"
    assert claim["spec"]["storageClassName"] == "local-nvme"
    assert claim["spec"]["resources"] == {"requests": {"storage": "1Ti"}}
    assert "cache" not in [volume["name"] for volume in pod_of(objects)["volumes"]]
    (apart,) = pod_of(objects)["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert apart["labelSelector"] == spec["selector"]
    assert "nodeAffinity" in pod_of(objects)["affinity"], "the user's own affinity stays"
    service = the(objects, "Service")
    assert service["metadata"]["name"] == spec["serviceName"]
    assert service["spec"]["clusterIP"] == "None"
    assert pod_of(objects)["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_chart_s_variables_are_settings(tmp_path: Path) -> None:
    """What the chart says by the environment, this daemon reads, with every ci file's config."""
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        objects = render(values=values, version="1.33.0")
        container = container_of(objects)
        if container["name"] != "cachd":
            continue
        file = tmp_path / "config.yaml"
        file.write_text(the_config(objects))
        settings = load_settings(file, environment(container))
        assert str(settings.store.root) == "/var/cache/cachd"
        assert str(settings.listen.admin_socket) == "/run/cachd-admin/admin.sock"
        alone = values.name in ("without-kubernetes-values.yaml", "cgroup-values.yaml")
        assert settings.kubernetes.enabled is not alone
        assert settings.access.trust_own_uid is False
        provider = {"without-kubernetes-values.yaml": "ttl", "cgroup-values.yaml": "cgroup"}
        assert settings.leases.provider == provider.get(values.name, "kubernetes")
        # With the chart kubelet's thresholds are heeded, and without it they aren't known.
        assert settings.store.kubelet_eviction.floor(100) == 18


def the_config(objects: list[Object]) -> str:
    (found,) = [o for o in of_kind(objects, "ConfigMap") if "config.yaml" in o["data"]]
    return str(found["data"]["config.yaml"])


def test_configuration_arrives_unchanged() -> None:
    values = CHART / "ci/prepared-values.yaml"
    expected = yaml.safe_load((CHART / "values.yaml").read_text())["config"]
    for section, chosen in yaml.safe_load(values.read_text())["config"].items():
        both = isinstance(chosen, dict) and section in expected
        expected[section] = {**expected[section], **chosen} if both else chosen
    assert yaml.safe_load(the_config(render(values=values))) == expected


def test_a_changed_configuration_restarts_the_pods() -> None:
    def checksum(*settings: str) -> str:
        template = the(render(*settings), "DaemonSet")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum()
    assert checksum() != checksum("config.offline=true")


def test_changed_rules_restart_no_pod_and_are_valid(tmp_path: Path) -> None:
    rules = ("rules[0].name=a", "rules[0].namespaces={team-a}", "rules[0].verbs={read,fetch}")
    objects = render(*rules)
    assert the(objects, "DaemonSet") == the(render(), "DaemonSet")
    file = tmp_path / "rules.yaml"
    file.write_text(rules_of(objects))
    (rule,) = read_rules(file)
    assert (rule.name, rule.namespaces, rule.verbs) == ("a", ("team-a",), ("read", "fetch"))
    file.write_text(rules_of(render()))
    assert read_rules(file) == ()
    place = environment(container_of(objects))["CACHD_ACCESS_RULES_FILE"]
    (mount,) = [m for m in container_of(objects)["volumeMounts"] if m["name"] == "config"]
    assert place == f"{mount['mountPath']}/rules.yaml"
    assert "subPath" not in mount, "kubelet never refreshes a subPath"


def rules_of(objects: list[Object]) -> str:
    return str(the(objects, "ConfigMap")["data"]["rules.yaml"])


def test_the_daemon_s_own_uid_may_be_trusted_by_whoever_says_so() -> None:
    trusted = container_of(render("config.access.trust_own_uid=true"))
    assert "CACHD_ACCESS_TRUST_OWN_UID" not in environment(trusted)


def test_pods_find_no_administrators_socket_beside_theirs() -> None:
    container = container_of(render())
    environ = {name: Path(value) for name, value in environment(container).items()}
    mounts = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    sockets = environ["CACHD_SOCKET"].parent, environ["CACHD_ADMIN_SOCKET"].parent
    assert sockets[0] != sockets[1]
    assert {*sockets, environ["CACHD_STORE_ROOT"]} <= mounts


def test_the_read_only_twin_is_the_same_directory() -> None:
    for settings in ((), CLAIM, PER_NODE):
        container = container_of(render(*settings))
        place = environment(container)["CACHD_STORE_READONLY_ROOT"]
        mounts = {item["mountPath"]: dict(item) for item in container["volumeMounts"]}
        twin = mounts[place]
        assert twin.pop("readOnly") is True
        assert {**twin, "mountPath": "/var/cache/cachd"} == mounts["/var/cache/cachd"]
    without = container_of(render("cache.descriptors=false"))
    assert "CACHD_STORE_READONLY_ROOT" not in environment(without)
    assert len([m for m in without["volumeMounts"] if m["name"] == "cache"]) == 1


def test_the_host_s_processes_are_seen_only_where_leases_need_it() -> None:
    objects = render(values=CHART / "ci/cgroup-values.yaml")
    assert pod_of(objects)["hostPID"] is True
    container = container_of(objects)
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "cgroup"]
    assert mount["readOnly"] is True
    assert environment(container)["CACHD_LEASES_CGROUP_ROOT"] == mount["mountPath"]
    assert "hostPID" not in pod_of(render())


def test_an_upgrade_changes_nothing_that_kubernetes_calls_immutable() -> None:
    plain = the(render(), "DaemonSet")
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        for workload in of_kind(render(values=values, version="1.33.0"), "DaemonSet"):
            assert workload["spec"]["selector"] == plain["spec"]["selector"]
            assert workload["metadata"]["name"] == plain["metadata"]["name"]


def test_a_pod_by_which_helm_asks_is_none_of_the_daemon_s() -> None:
    asking = the(render(), "Pod")
    assert asking["metadata"]["annotations"]["helm.sh/hook"] == "test"
    selector = the(render(), "DaemonSet")["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= asking["metadata"]["labels"].items()
    (container,) = asking["spec"]["containers"]
    assert container["securityContext"]["runAsUser"] != 10001
    assert asking["spec"]["tolerations"] == pod_of(render())["tolerations"]
    assert asking["spec"]["nodeSelector"] == pod_of(render())["nodeSelector"]


def test_selinux_options_reach_every_container() -> None:
    pod = pod_of(render("seLinuxOptions.type=spc_t", PREPARED))
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}


def test_image_tag_is_the_release_unless_a_digest_is_given() -> None:
    digest = "sha256:" + "ab" * 32
    images = [
        container_of(render(*settings))["image"]
        for settings in ([], ["image.tag=next"], [f"image.digest={digest}"])
    ]
    release = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images == [f"cachd:{release}", "cachd:next", f"cachd@{digest}"]


def make_root(path: Path) -> None:
    (path / "snapshots/abc/1").mkdir(parents=True)
    (path / "snapshots/abc/1/model.bin").write_bytes(b"x")
    (path / "daemon.lock").touch()
    (path / ".volume-id").write_text("nvme-1")
    (path / "link").symlink_to("/")


def clean_up(*paths: Path) -> None:
    (init,) = pod_of(render("cleanUp.enabled=true"))["initContainers"]
    _, flag, program, *mounts = init["command"]
    assert len(mounts) == 3
    command = [sys.executable, flag, program, *map(str, paths)]
    subprocess.run(command, check=True, timeout=60)


def test_clean_up_removes_a_cache_and_sockets_and_nothing_else(tmp_path: Path) -> None:
    root, run, admin = (tmp_path / name for name in ("root", "run", "admin"))
    make_root(root)
    run.mkdir()
    admin.mkdir()
    (run / "cachd.sock").touch()
    (run / "other").touch()
    clean_up(root, run, admin)
    assert (root / "snapshots").exists(), "without layout.json it is no cache of ours"
    (root / "layout.json").write_text("{}")
    clean_up(root, run, admin)
    assert sorted(path.name for path in root.iterdir()) == [".volume-id"]
    assert [path.name for path in run.iterdir()] == ["other"]


def test_clean_up_ends_the_daemons_on_all_nodes_at_once() -> None:
    objects = render("cleanUp.enabled=true", PREPARED)
    spec = the(objects, "DaemonSet")["spec"]
    assert spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "100%"
    assert container_of(objects)["name"] == "cleaned-up"
    assert len(pod_of(objects)["initContainers"]) == 1
