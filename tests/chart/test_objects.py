"""Every object of every values file, by Kubernetes' own schemas; and wrong values refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.chart.rendering import CHART, ROOT, ci_values, helm, refusal, render

# The oldest whose schemas are to be had, one between, the newest.
KUBERNETES_VERSIONS = ("1.25", "1.33", kubernetes_validate.latest_version())
FOREIGN = ("monitoring.coreos.com/", "serving.kserve.io/")


@ci_values
def test_lint_and_kubernetes_schemas(values: Path) -> None:
    done = helm("lint", "--strict", str(CHART), f"-f={values}")
    assert done.returncode == 0, done.stdout
    for version in KUBERNETES_VERSIONS:
        objects = render(values=values, version=f"{'.'.join(version.split('.')[:2])}.0")
        for item in objects:
            if not item["apiVersion"].startswith(FOREIGN):
                kubernetes_validate.validate(item, version, strict=True)


@ci_values
def test_what_helm_shows_at_the_end_fits_the_values(values: Path, tmp_path: Path) -> None:
    # `helm template` leaves NOTES.txt out, and `helm install` wants a cluster.
    chart = tmp_path / "cachd"
    shutil.copytree(CHART, chart)
    (chart / "templates/shown.yaml").write_text(
        'notes: |\n  {{- include "cachd.notes" . | nindent 2 }}\n'
    )
    arguments = [f"-f={values}", "--namespace=cache", "--show-only=templates/shown.yaml"]
    done = helm("template", "nodes", str(chart), "--kube-version=1.33.0", *arguments)
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["notes"]
    assert "\n\n\n" not in notes
    assert "<no value>" not in notes
    (workload,) = [o for o in render(values=values, version="1.33.0") if is_workload(o)]
    name = f"{workload['kind'].lower()}/{workload['metadata']['name']}"
    assert f"kubectl -n cache rollout status {name}\n" in notes


def is_workload(item: dict[str, object]) -> bool:
    return item["kind"] in ("DaemonSet", "StatefulSet")


def test_an_old_kubernetes_is_told_only_what_it_knows() -> None:
    assert render(version="1.20.2")
    said = refusal(
        "api.enabled=true",
        "api.tlsSecret=a",
        "api.tokenSecret=b",
        "api.service.sameNodeOnly=true",
        version="1.20.2",
    )
    assert "needs Kubernetes 1.22" in said


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("terminationGracePeriodSeconds=29", "set it to at least 30"),
        ("config.drain_timeout=60", "set it to at least 70"),
        ("config.drain_timeout=36", "set it to at least 46"),
        ("config.store.root=/data", "set cache.hostPath.path"),
        ("config.listen.socket=/x", "set socket.hostPath.path"),
        ("config.listen.health_address=x:1", "set health.port"),
        ("config.listen.api.role=admin", "set api, beside config"),
        ("config.kubernetes.enabled=true", "set kubernetes.enabled, beside config"),
        ("config.store.expected_mount=/var/cache/cachd", "set config.store.expected_volume_id"),
        ("adminSocket.hostPath.path=/run/cachd", "are the same"),
        ("config.store.qouta=1", "qouta"),
        ("config.store.watch_interval=0", "watch_interval"),
        ("config.store.quota=lots", "quota"),
        ("config.store.quota=300%", "quota"),
        ("resurces.limits.memory=1", "resurces"),
        ("cache.hostPath.path=relative", "cache.hostPath.path"),
        ("config.store.readonly_root=/x", "set cache.descriptors"),
        ("config.leases.provider=cgroup", "set hostPID to true"),
        ("config.kubernetes.events=true", "set kubernetes.events, beside config"),
        ("config.upstream.token_file=/x", "set upstream.tokenSecret"),
        ("upstream.endpoints={https://a:1}", "set upstream.tokenSecret"),
        ("upstream.endpoints={a:1}", "upstream.endpoints"),
        ("config.access.rules_file=/x", "set rules, beside config"),
        ("rules[0].names=a", "names"),
        ("rules[0].verbs={write}", "verbs"),
        ("cache.type=ephemeral", "cache.type"),
        ("cache.type=claim", "set cache.claim.name"),
        ("podSecurityContext.runAsUser=0", "runAsUser"),
        ("image.digest=latest", "image.digest"),
        ("api.enabled=true", "api.tlsSecret"),
        ("storageContainer.prefixes={s3//}", "storageContainer.prefixes"),
        ("namespaces[0].views=true", "name"),
    ],
)
def test_wrong_values_are_refused_with_the_way_out(setting: str, said: str) -> None:
    assert said in refusal(setting)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ("cache.type=claimPerNode", "namespaces[0].name=a", "namespaces[0].views=true"),
            "need cache.type hostPath",
        ),
        (
            ("storageContainer.enabled=true", "storageContainer.view.enabled=true"),
            "view.prefixes is empty",
        ),
        (
            (
                "storageContainer.enabled=true",
                "storageContainer.view.enabled=true",
                "storageContainer.view.prefixes={cachd+s3://views/}",
            ),
            "in no order that it promises",
        ),
        (
            (
                "kubernetes.enabled=false",
                "config.kubernetes.node_labels[0].match=*",
                "config.kubernetes.node_labels[0].label=cachd.dev/model-a",
            ),
            "set kubernetes.enabled",
        ),
        (
            ("kubernetes.enabled=false", "config.leases.provider=kubernetes"),
            "set kubernetes.enabled",
        ),
        (
            ("storageContainer.enabled=true", "storageContainer.prefixes=null"),
            "are all empty",
        ),
        (
            (
                "api.enabled=true",
                "api.tlsSecret=a",
                "api.tokenSecret=b",
                "api.port=9440",
            ),
            "are the same",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    settings: tuple[str, ...], said: str
) -> None:
    assert said in refusal(*settings)


# Passed on as they are, or described elsewhere.
WHOLE = {"config", "podSecurityContext", "securityContext", "resources", "nodeSelector"}


def test_every_value_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(value: object, described: dict[str, Any], path: str) -> None:
        is_whole = path.rpartition(".")[2] in WHOLE
        if isinstance(value, dict) and "properties" in described and value and not is_whole:
            assert value.keys() == described["properties"].keys() - {"global"}, path
            for name, inner in value.items():
                compare(inner, described["properties"][name], f"{path}.{name}".lstrip("."))

    compare(values, schema, "")


def test_the_readme_has_every_value_and_is_generated() -> None:
    subprocess.run(
        [sys.executable, ROOT / "scripts/generate_chart_readme.py", "--check"],
        check=True,
        timeout=60,
    )
    readme = (CHART / "README.md").read_text()

    missing: list[str] = []

    def look(value: object, path: str) -> None:
        if f"| `{path}` |" in readme:
            return
        if not isinstance(value, dict):
            missing.append(path)
            return
        for name, inner in value.items():
            look(inner, f"{path}.{name}".lstrip("."))

    look(yaml.safe_load((CHART / "values.yaml").read_text()), "")
    assert missing == []


def test_the_schema_is_strict_all_the_way_down() -> None:
    """Every mapping with named members refuses others, but for Kubernetes' own objects."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    loose: list[str] = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node and node.get("additionalProperties") is not False:
                loose.append(path)
            for key, value in node.items():
                walk(value, f"{path}.{key}")

    walk(schema["properties"], "values")
    assert loose == ["values.podSecurityContext"]


def test_schema_of_config_is_that_of_the_settings() -> None:
    script = ROOT / "scripts/generate_chart_schema.py"
    subprocess.run([sys.executable, script, "--check"], check=True, timeout=60)
