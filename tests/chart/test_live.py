"""A real Prometheus scrapes a real daemon, and answers the alerts and the dashboard."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from cachd.catalogue import CATALOGUE
from tests.chart.queries import ALERTS, alert_rules, panel_queries
from tests.harness import Daemon, eventually, running
from tests.process.origin import CountingOrigin
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess
from tests.servers.require import program

pytestmark = pytest.mark.slow

# Labelled counters that this test's traffic brings about; others have no series until something
# happens.
EXERCISED = {
    "cachd_requests_total",
    "cachd_request_seconds",
    "cachd_lookups_total",
    "cachd_fetch_bytes_total",
    "cachd_phase_seconds",
    "cachd_build_info",
}
# Only where an API server or the pods' cgroups are asked.
ELSEWHERE = {"cachd_pods_visible", "cachd_pods_answer_age_seconds"}


@dataclass
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def ask(self, query: str) -> list[Any]:
        found = self.get("query", query=query)
        assert not found.get("warnings")
        result: list[Any] = found["result"]
        return result


@pytest.fixture(scope="module")
def health_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, health_port: int) -> Iterator[Daemon]:
    """With a hit and a miss behind it."""
    origin = CountingOrigin()
    origin.bodies["/m/model.bin"] = os.urandom(300_000)
    home = tmp_path_factory.mktemp("scraped")
    with running(home, LISTEN_HEALTH_ADDRESS=f"{LOOPBACK}:{health_port}") as one:
        for result in ("miss", "hit"):
            answer = one.ask(f"{origin.url}/m/model.bin")
            assert answer.json()["result"] == result, answer.json()
        yield one
    origin.close()


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, daemon: Daemon, health_port: int
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    (port,) = free_ports(1)
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": "cachd", "static_configs": [{"targets": [f"{LOOPBACK}:{health_port}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    server = ServerProcess(
        [
            program("prometheus", "prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={LOOPBACK}:{port}",
        ],
        folder,
    )
    try:
        server.wait_for_http(port, "/-/ready")
        one = Prometheus(f"http://{LOOPBACK}:{port}")
        # Rates need two scrapes.
        eventually(lambda: one.ask("count_over_time(up[1h]) >= 3"))
        yield one
    finally:
        server.stop()


def test_the_target_is_up(prometheus: Prometheus) -> None:
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_every_metric_that_must_be_there_is(prometheus: Prometheus) -> None:
    for metric in CATALOGUE:
        if (metric.labels and metric.name not in EXERCISED) or metric.name in ELSEWHERE:
            continue
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        assert prometheus.ask(name), f"no series of {name}"


def test_every_alert_is_evaluated_without_an_error_and_none_fires(prometheus: Prometheus) -> None:
    def rules() -> list[Any]:
        groups = prometheus.get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    eventually(lambda: all(rule["health"] != "unknown" for rule in rules()))
    found = {rule["name"]: rule for rule in rules()}
    assert found.keys() == {rule["alert"] for rule in alert_rules()}
    for rule in found.values():
        assert rule["health"] == "ok", rule.get("lastError")
        assert rule["state"] == "inactive", rule


@pytest.mark.parametrize("query", panel_queries())
def test_every_panel_is_answered(query: str, prometheus: Prometheus) -> None:
    asked = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
    answer = prometheus.ask(asked)
    if always_has_data(query):
        assert answer, query


def always_has_data(query: str) -> bool:
    """Unless it filters by its value, or is of something that didn't happen here."""
    unlabelled = {metric.name for metric in CATALOGUE if not metric.labels}
    named = {metric.name for metric in CATALOGUE if f"{metric.name}" in query.replace("{", " ")}
    return ">" not in query and named <= (unlabelled | EXERCISED) - ELSEWHERE
