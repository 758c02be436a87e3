"""Metrics: names, labels with bounds, gauges at scrape, and promtool's opinion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cachd import __version__
from cachd.api.routes import ROUTES
from cachd.catalogue import CATALOGUE
from cachd.errors import NotReady
from cachd.fetch.observe import FetchMetrics
from cachd.metrics import Metrics
from cachd.store.observe import StoreMetrics
from tests.servers.require import missing

if TYPE_CHECKING:
    from tests.api.conftest import Rig

ROOT = Path(__file__).parents[2]
URI = "s3://bucket/secret-name"


def exercised() -> Metrics:
    """Every family has a sample."""
    metrics = Metrics()
    metrics.requested("ask", 200, 0.01)
    metrics.looked_up("hit")
    metrics.refused("uid")
    metrics.received("s3", 5)
    metrics.phase("fetch", 1.5)
    metrics.retried("origin_busy")
    metrics.probe("allowed")
    metrics.evicted("capacity", 7)
    metrics.workers(2)
    metrics.worker_died()
    metrics.waiting(4)
    metrics.connections(3)
    usage: dict[str, Any] = {m.gauge: 1 for m in CATALOGUE if m.gauge}
    usage["namespaces"] = {"team-a": {"bytes": 1, "quota": 2}}
    metrics.watch(lambda: usage)
    return metrics


def samples(metrics: Metrics) -> dict[str, Any]:
    text = metrics.render()[0].decode()
    return {
        f"{s.name}{sorted(s.labels.items())}": s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_the_exposition_is_the_catalogue() -> None:
    text = exercised().render()[0].decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    own = {name: kind for name, kind in kinds.items() if not name.startswith("process_")}
    assert own == {m.name: m.kind for m in CATALOGUE}
    assert {n: h for n, h in helps.items() if n in own} == {m.name: m.help for m in CATALOGUE}
    assert "process_resident_memory_bytes" in kinds


def test_names_carry_their_units() -> None:
    for metric in CATALOGUE:
        assert re.fullmatch(r"cachd_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") is (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) is (metric.kind == "histogram"), metric.name
        assert bool(metric.labels) is bool(metric.values), metric.name


def test_methods_count() -> None:
    metrics = exercised()
    metrics.evicted("capacity", 3)
    metrics.received("s3", 6)
    found = samples(metrics)
    assert found["cachd_evictions_total[('reason', 'capacity')]"] == 2
    assert found["cachd_evicted_bytes_total[('reason', 'capacity')]"] == 10
    assert found["cachd_fetch_bytes_total[('source', 's3')]"] == 11
    assert found["cachd_phase_seconds_sum[('phase', 'fetch')]"] == 1.5
    assert found["cachd_retries_total[('cause', 'origin_busy')]"] == 1
    assert found["cachd_probes_total[('result', 'allowed')]"] == 1
    assert found["cachd_workers[]"] == 2
    assert found["cachd_connections[]"] == 3
    assert found[f"cachd_build_info[('version', '{__version__}')]"] == 1


def test_a_rate_of_hits_is_there_before_the_first_miss() -> None:
    found = samples(Metrics())
    for result in ("hit", "miss", "stale"):
        assert found[f"cachd_lookups_total[('result', '{result}')]"] == 0


def test_the_number_of_series_has_a_bound() -> None:
    metrics = Metrics()
    for i in range(1000):
        metrics.received(f"scheme{i}", 1)
        metrics.retried(f"cause{i}")
        metrics.phase(f"phase{i}", 1)
        metrics.evicted(f"reason{i}", 1)
        metrics.probe(f"result{i}")
    found = samples(metrics)
    assert len(found) < 400
    assert found["cachd_fetch_bytes_total[('source', 'other')]"] == 1000 - 32
    assert found["cachd_phase_seconds_count[('phase', 'other')]"] == 1000


def test_a_store_that_is_not_open_yet_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()

    def usage() -> dict[str, Any]:
        raise NotReady("another daemon has the root")

    metrics.watch(usage)
    assert b"cachd_build_info" in metrics.render()[0]
    assert caplog.text == ""


def test_the_parts_protocols_are_met() -> None:
    fetch: FetchMetrics = Metrics()
    store: StoreMetrics = Metrics()
    for protocol, made in ((FetchMetrics, fetch), (StoreMetrics, store)):
        wanted = {name for name in vars(protocol) if not name.startswith("_")}
        assert wanted
        assert all(callable(getattr(made, name)) for name in wanted)


def test_a_store_that_cant_answer_does_not_end_the_scrape(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()

    def usage() -> dict[str, Any]:
        raise OSError("gone")

    metrics.watch(usage)
    assert b"cachd_build_info" in metrics.render()[0]
    assert "usage can't be had" in caplog.text


async def test_gauges_are_read_at_scrape_and_no_uri_is_a_label(rig: Rig) -> None:
    key = rig.cache.store(URI, {"a": b"1"})
    await rig.ask(URI, lease={})
    await rig.call("GET", f"/v1/models/{key}/files/a")
    await rig.call("GET", f"/nothing/{key}")
    reply = await rig.call("GET", "/metrics", admin=True)
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    text = reply.body.decode()
    assert "cachd_store_allocated_bytes 4096.0" in text
    assert "cachd_leases 1.0" in text
    assert 'cachd_requests_total{code="200",endpoint="ask"} 1.0' in text
    assert 'cachd_requests_total{code="404",endpoint="unmatched"} 1.0' in text
    assert 'cachd_request_seconds_count{endpoint="file"} 1.0' in text
    assert key not in text
    assert "secret-name" not in text
    endpoints = set(re.findall(r'endpoint="([^"]+)"', text))
    assert endpoints <= {route.name for route in ROUTES} | {"unmatched"}


async def test_openmetrics_is_given_to_who_wants_it(rig: Rig) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    reply = await rig.call("GET", "/metrics", admin=True, headers=accept)
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("CI") != "true":
        missing("promtool (Debian: prometheus)")
    assert found is not None, "promtool is not installed, and CI=true wants it"
    return found


def test_promtool_has_nothing_to_say() -> None:
    done = subprocess.run(
        [promtool(), "check", "metrics"],
        input=exercised().render()[0],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_generated_pages_are_fresh(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts/generate_docs.py")]
    checked = subprocess.run([*script, "--check"], capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")
    stale = [*script, "--check", "--output", str(tmp_path)]
    assert subprocess.run(stale, capture_output=True, timeout=60, check=False).returncode == 1
    assert list(tmp_path.iterdir()) == []
    written = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert all(f"`{m.name}`" in written for m in CATALOGUE)
