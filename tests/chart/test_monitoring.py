"""Alerts and dashboard: only metrics that there are, judged by promtool."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachd.catalogue import CATALOGUE
from tests.chart.queries import ALERTS, DASHBOARD, alert_rules, panel_queries
from tests.chart.rendering import CHART, ROOT, Object, of_kind, render, the
from tests.servers.require import program

MONITORING = CHART / "ci/monitoring-values.yaml"
# Plain text: 0x20 is twenty more zeros to promtool, and a number to YAML.
CASES = yaml.load(Path(__file__).with_name("alert_tests.yaml").read_text(), yaml.BaseLoader)
# What is not ours: Prometheus' own, and prometheus_client's of the process.
FOREIGN = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}


def series_names() -> set[str]:
    names = set(FOREIGN)
    for metric in CATALOGUE:
        if metric.kind == "histogram":
            names |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(metric.name)
    return names


def names_in(query: str) -> set[str]:
    """Words that stand where a metric's name does: not before a parenthesis, not in braces."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", "", query)
    words = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\(|[a-zA-Z0-9_:])", bare))
    return words - {"unless", "and", "or"}


QUERIES = [*(rule["expr"] for rule in alert_rules()), *panel_queries()]


@pytest.mark.parametrize("query", QUERIES)
def test_only_metrics_that_there_are(query: str) -> None:
    names = names_in(query)
    assert names
    assert names <= series_names()


def test_labels_in_queries_are_those_of_the_metric() -> None:
    labels = {metric.name: set(metric.labels) for metric in CATALOGUE}
    for query in QUERIES:
        for name, matchers in re.findall(r"(cachd_\w+)\{([^}]*)\}", query):
            base = re.sub(r"_(bucket|sum|count)$", "", name) if name not in labels else name
            used = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", matchers)) - {"instance", "job"}
            assert used <= labels[base], query


def test_every_metric_has_a_place_on_the_dashboard() -> None:
    shown = {name for query in panel_queries() for name in names_in(query)}
    left_out = {
        metric.name
        for metric in CATALOGUE
        if not shown & {metric.name, f"{metric.name}_bucket", f"{metric.name}_sum"}
    }
    assert left_out == set()


def test_the_dashboard_is_one_that_grafana_can_load() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"] == "cachd-nodes"
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {item["name"] for item in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__rate_interval", "__all"}
    assert used == variables


def test_the_config_map_holds_the_dashboard() -> None:
    (found,) = [
        item
        for item in of_kind(render(values=MONITORING), "ConfigMap")
        if item["metadata"]["name"].endswith("-dashboard")
    ]
    assert json.loads(found["data"]["cachd.json"]) == json.loads(DASHBOARD.read_text())
    assert found["metadata"]["namespace"] == "monitoring"
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Models"}


def test_the_rule_object_holds_the_alerts() -> None:
    (found,) = of_kind(render(values=MONITORING), "PrometheusRule")
    rules = [rule for group in found["spec"]["groups"] for rule in group["rules"]]
    expected = {rule["alert"]: rule for rule in alert_rules()}
    del expected["CachdScrubBehind"]  # disabled by that file
    assert [rule["alert"] for rule in rules] == list(expected)
    for rule in rules:
        assert rule["labels"].pop("team") == "models"
        assert rule == expected[rule["alert"]]


def test_an_alert_on_a_release_of_another_name() -> None:
    objects = render("nameOverride=models", "prometheusRule.enabled=true")
    (found,) = of_kind(objects, "PrometheusRule")
    assert found["spec"]["groups"][0]["rules"][0]["expr"] == 'up{job="models"} == 0'


@pytest.mark.parametrize(
    ("kind", "endpoints"),
    [("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")],
)
def test_monitors_find_the_health_port(kind: str, endpoints: str) -> None:
    objects = render(values=MONITORING)
    monitor = the(objects, kind)["spec"]
    (endpoint,) = monitor[endpoints]
    assert (endpoint["port"], endpoint["path"]) == ("health", "/metrics")
    # The alerts go by job="cachd".
    assert monitor["jobLabel"] == "app.kubernetes.io/name"
    target: Object = the(objects, "DaemonSet")["spec"]["template"]
    if kind == "ServiceMonitor":
        target = the(objects, "Service")
        assert target["spec"]["ports"][0]["name"] == "health"
    wanted = monitor["selector"]["matchLabels"]
    assert wanted.items() <= target["metadata"]["labels"].items()
    assert target["metadata"]["labels"]["app.kubernetes.io/name"] == "cachd"


def test_a_service_monitor_takes_one_service_only() -> None:
    objects = render(
        "serviceMonitor.enabled=true",
        "api.enabled=true",
        "api.tlsSecret=a",
        "api.tokenSecret=b",
    )
    wanted = the(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    services = of_kind(objects, "Service")
    assert len(services) == 2
    (found,) = [item for item in services if wanted <= item["metadata"]["labels"].items()]
    assert found["spec"]["ports"][0]["name"] == "health"


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path: Path) -> None:
    promtool = program("promtool", "prometheus")
    rendered = tmp_path / "rules.yaml"
    (found,) = of_kind(render(values=MONITORING), "PrometheusRule")
    rendered.write_text(yaml.safe_dump(found["spec"]))
    for file in (ALERTS, rendered):
        done = subprocess.run(
            [promtool, "check", "rules", file], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires = {case["alert"] for case in CASES["cases"] if "fires" in case}
    silent = {case["alert"] for case in CASES["cases"] if "fires" not in case}
    assert fires == silent == {rule["alert"] for rule in alert_rules()}


@pytest.mark.parametrize("interval", ["1m", "6h"])
def test_the_alerts_fire_when_they_should_and_only_then(interval: str, tmp_path: Path) -> None:
    promtool = program("promtool", "prometheus")
    cases = [case for case in CASES["cases"] if case.get("every", "1m") == interval]
    assert cases
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": interval,
                "tests": [promtool_test(case, interval) for case in cases],
            }
        )
    )
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr


def promtool_test(case: dict[str, Any], interval: str) -> dict[str, Any]:
    annotations = {rule["alert"]: rule["annotations"] for rule in alert_rules()}
    expected: list[dict[str, Any]] = []
    if "fires" in case:
        labels = {"instance": "node-1", "job": "cachd", **case["fires"]}
        expected = [{"exp_labels": labels, "exp_annotations": said(annotations, case, labels)}]
    return {
        "interval": interval,
        "input_series": [
            {"series": with_labels(name), "values": values}
            for name, values in case["series"].items()
        ],
        "alert_rule_test": [
            {"eval_time": case["at"], "alertname": case["alert"], "exp_alerts": expected}
        ],
    }


def with_labels(series: str) -> str:
    name, _, labels = series.partition("{")
    return f'{name}{{job="cachd",instance="node-1",{labels or "}"}'


VALUES = {
    "CachdWorkersDie": "60",
    "CachdDiskFilling": "5",
    "CachdDiskRots": "2",
    "CachdPrefetchFailing": "2",
}


def said(annotations: dict[str, Any], case: dict[str, Any], labels: dict[str, str]) -> Any:
    """The annotations as Prometheus writes them out for this case."""
    texts = dict(annotations[case["alert"]])
    for key, text in texts.items():
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match[1]], text)
        texts[key] = re.sub(r"\{\{ \$value[^}]*\}\}", VALUES.get(case["alert"], ""), text)
    return texts


def test_operators_read_what_to_do_about_each_alert() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    assert [rule["alert"] for rule in alert_rules() if f"`{rule['alert']}`" not in page] == []
