"""What Prometheus scrapes, as ``catalogue`` declares it: counting, and reading gauges."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cachd import __version__
from cachd.catalogue import CATALOGUE, OTHER, PHASES, Metric
from cachd.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_log = logging.getLogger(__name__)


class _UsageCollector(Collector):
    """Gauges of the store, asked for at scrape; what ``usage`` doesn't have is left out."""

    def __init__(self, usage: Callable[[], Mapping[str, Any]]) -> None:
        self._usage = usage

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            usage = self._usage()
        except NotReady:
            # Not opened yet, or another daemon has the root: there is nothing to tell.
            return
        except Exception:
            _log.exception("the store's usage can't be had")
            return
        for metric in CATALOGUE:
            name, _, field = metric.gauge.partition(".")
            value = usage.get(name) if name else None
            if value is None:
                continue
            if field:
                family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                for label, facts in value.items():
                    family.add_metric([label], float(facts[field]))
                yield family
            else:
                yield GaugeMetricFamily(metric.name, metric.help, value=float(value))

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(m.name, m.help, labels=m.labels) for m in CATALOGUE if m.gauge]


class Metrics:
    """The collectors, on a registry of their own. Its methods are what other parts call."""

    def __init__(self) -> None:
        # The creation times would double the series, and nobody reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        made = {m.name: self._make(m) for m in CATALOGUE if not m.gauge}
        self._made: dict[str, Any] = made
        self._words: dict[str, set[str]] = {}
        ProcessCollector(registry=self.registry)
        made["cachd_build_info"].labels(version=__version__).set(1)
        for result in ("hit", "miss", "stale"):
            made["cachd_lookups_total"].labels(result=result)

    def _make(self, metric: Metric) -> Any:
        kinds = {"counter": Counter, "gauge": Gauge}
        if metric.kind == "histogram":
            return Histogram(
                metric.name,
                metric.help,
                metric.labels,
                buckets=metric.buckets,
                registry=self.registry,
            )
        return kinds[metric.kind](metric.name, metric.help, metric.labels, registry=self.registry)

    def watch(self, usage: Callable[[], Mapping[str, Any]]) -> None:
        """Read the store's gauges from ``usage()`` at each scrape. Once per instance."""
        self.registry.register(_UsageCollector(usage))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type, in the format that ``accept`` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _word(self, family: str, value: str) -> str:
        """``value``, unless the family has 32 others already: a bound on series, whatever comes."""
        known = self._words.setdefault(family, set())
        if value not in known:
            if len(known) >= 32:
                return OTHER
            known.add(value)
        return value

    def requested(self, endpoint: str, code: int, seconds: float) -> None:
        self._made["cachd_requests_total"].labels(endpoint=endpoint, code=str(code)).inc()
        self._made["cachd_request_seconds"].labels(endpoint=endpoint).observe(seconds)

    def refused(self, reason: str) -> None:
        """A connection was closed at once, for ``reason`` all or uid."""
        self._made["cachd_connections_refused_total"].labels(reason=reason).inc()

    def denied(self, verb: str) -> None:
        self._made["cachd_denied_total"].labels(verb=verb).inc()

    def rules(self, count: int, *, is_stale: bool) -> None:
        self._made["cachd_access_rules"].set(count)
        self._made["cachd_access_rules_stale"].set(int(is_stale))

    def rules_read(self, result: str) -> None:
        self._made["cachd_access_rules_reads_total"].labels(result=result).inc()

    def token_reviewed(self, result: str) -> None:
        self._made["cachd_token_reviews_total"].labels(result=result).inc()

    def looked_up(self, result: str) -> None:
        self._made["cachd_lookups_total"].labels(result=result).inc()

    def received(self, source: str, count: int, place: str = "origin") -> None:
        """``count`` bytes came from an origin of the scheme ``source``, or in its place from its
        ``mirror``, or an ``upstream``."""
        if place == "mirror":
            self._made["cachd_mirror_bytes_total"].inc(count)
        self._made["cachd_place_bytes_total"].labels(place=place).inc(count)
        self._made["cachd_fetch_bytes_total"].labels(source=self._word("source", source)).inc(count)

    def phase(self, name: str, seconds: float) -> None:
        phase = name if name in PHASES else OTHER
        self._made["cachd_phase_seconds"].labels(phase=phase).observe(seconds)

    def retried(self, cause: str) -> None:
        self._made["cachd_retries_total"].labels(cause=self._word("cause", cause)).inc()

    def mismatched(self, against: str) -> None:
        """What was fetched contradicts the digest of its ``source``, or every ``pin``."""
        self._made["cachd_digest_mismatches_total"].labels(against=against).inc()

    def mirror_used(self, result: str) -> None:
        """An ask went on at a mirror that has the ``same`` revision, or an ``other``."""
        self._made["cachd_mirror_uses_total"].labels(result=result).inc()

    def upstream_asked(self, result: str) -> None:
        """An upstream was asked for a model."""
        self._made["cachd_upstream_asks_total"].labels(result=result).inc()

    def breaker(self, state: str) -> None:
        """An origin's breaker went to ``state``."""
        self._made["cachd_breaker_changes_total"].labels(state=state).inc()

    def held(self, cause: str, seconds: float) -> None:
        """An origin was left alone for so long."""
        self._made["cachd_origin_held_seconds_total"].labels(cause=cause).inc(seconds)

    def origins_held(self, count: int) -> None:
        """Origins that are left alone now."""
        self._made["cachd_origins_held"].set(count)

    def refreshed(self, result: str) -> None:
        """A model was looked at by schedule."""
        self._made["cachd_refreshes_total"].labels(result=result).inc()

    def updated(self, state: str) -> None:
        """A newer revision was seen, is ready, or was promoted."""
        self._made["cachd_updates_total"].labels(state=state).inc()

    def probe(self, result: str) -> None:
        self._made["cachd_probes_total"].labels(result=self._word("probe", result)).inc()

    def registry_asked(self, registry: str, result: str) -> None:
        """A registry was asked what a name means; ``registry``: as it is configured, or ""."""
        self._made["cachd_registry_asks_total"].labels(
            registry=self._word("registry", registry) if registry else OTHER, result=result
        ).inc()

    def evicted(self, reason: str, count: int) -> None:
        """A snapshot went, and ``count`` bytes with it."""
        word = self._word("reason", reason)
        self._made["cachd_evictions_total"].labels(reason=word).inc()
        self._made["cachd_evicted_bytes_total"].labels(reason=word).inc(count)

    def kubernetes_event(self, result: str) -> None:
        self._made["cachd_kubernetes_events_total"].labels(result=result).inc()

    def node_labelled(self, result: str) -> None:
        self._made["cachd_node_label_patches_total"].labels(result=result).inc()

    def scrub(self, what: str, count: int) -> None:
        """``what``: scrub_bytes, bad_blocks or repaired_blocks."""
        self._made[f"cachd_{what}_total"].inc(count)

    def disk_failed(self, kind: str) -> None:
        """A call failed on the volume, with an errno of the class ``kind``."""
        self._made["cachd_disk_errors_total"].labels(errno=kind).inc()

    def degraded(self, reason: str, is_so: bool) -> None:
        self._made["cachd_store_degraded"].labels(reason=reason).set(int(is_so))

    def workers(self, count: int) -> None:
        self._made["cachd_workers"].set(count)

    def worker_died(self) -> None:
        self._made["cachd_worker_deaths_total"].inc()

    def connections(self, count: int) -> None:
        """Connections to origins that are in use now."""
        self._made["cachd_connections"].set(count)

    def waiting(self, count: int) -> None:
        """Ranges that no connection has taken yet."""
        self._made["cachd_parts_waiting"].set(count)
