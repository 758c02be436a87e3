"""Of what the daemon does: answering, fetching, evicting, telling the cluster."""

from __future__ import annotations

from cachd.catalogue.metric import PHASES, Metric

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60, 300, 1800)
PHASE_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 30, 120, 600, 1800)

WORKING: tuple[Metric, ...] = (
    Metric(
        name="cachd_requests_total",
        kind="counter",
        help="API requests answered.",
        labels=("endpoint", "code"),
        values="endpoint: a route of the API; code: the HTTP status, 499 if the caller went away",
    ),
    Metric(
        name="cachd_request_seconds",
        kind="histogram",
        help="Time from a request's head to the end of its answer.",
        labels=("endpoint",),
        values="endpoint: a route of the API",
        buckets=REQUEST_BUCKETS,
    ),
    Metric(
        name="cachd_denied_total",
        kind="counter",
        help="What access rules refused.",
        labels=("verb",),
        values="read, fetch, pin, evict, admin",
    ),
    Metric(
        name="cachd_access_rules",
        kind="gauge",
        help="Access rules in force.",
    ),
    Metric(
        name="cachd_access_rules_stale",
        kind="gauge",
        help="1 while access.rules_file can't be used and the rules are those of before.",
    ),
    Metric(
        name="cachd_access_rules_reads_total",
        kind="counter",
        help="Times that a changed access.rules_file was read.",
        labels=("result",),
        values="ok, failed",
    ),
    Metric(
        name="cachd_token_reviews_total",
        kind="counter",
        help="Callers' tokens, by what the API server said of them.",
        labels=("result",),
        values="accepted, refused, failed (it could not be asked), remembered",
    ),
    Metric(
        name="cachd_connections_refused_total",
        kind="counter",
        help="Connections to the pods' socket that were closed at once: there were too many.",
        labels=("reason",),
        values="all (listen.max_connections), uid (three quarters of it for one uid)",
    ),
    Metric(
        name="cachd_lookups_total",
        kind="counter",
        help="Models asked for, by what the cache had.",
        labels=("result",),
        values="hit, miss, stale",
    ),
    Metric(
        name="cachd_fetch_bytes_total",
        kind="counter",
        help="Bytes received from origins, wasted ones included.",
        labels=("source",),
        values="the URI scheme: s3, http, https, file, …",
    ),
    Metric(
        name="cachd_mirror_bytes_total",
        kind="counter",
        help="Those of cachd_fetch_bytes_total that came from mirrors.",
    ),
    Metric(
        name="cachd_mirror_uses_total",
        kind="counter",
        help="Asks that went on at a mirror because their origin was down.",
        labels=("result",),
        values="same (the mirror has the same revision), other (another: planned anew)",
    ),
    Metric(
        name="cachd_place_bytes_total",
        kind="counter",
        help="cachd_fetch_bytes_total by who was called.",
        labels=("place",),
        values="origin, mirror, upstream (another cachd)",
    ),
    Metric(
        name="cachd_upstream_asks_total",
        kind="counter",
        help="Models that another cachd was asked for before their origin's bytes.",
        labels=("result",),
        values="used (all that was missing came from it), part (some did), missing, failed, "
        "held (it is left alone)",
    ),
    Metric(
        name="cachd_worker_deaths_total",
        kind="counter",
        help="Worker processes that ended by themselves, or were killed because they hung.",
    ),
    Metric(
        name="cachd_phase_seconds",
        kind="histogram",
        help="Time spent in each phase of an ask.",
        labels=("phase",),
        values=", ".join(sorted(PHASES)) + ", other",
        buckets=PHASE_BUCKETS,
    ),
    Metric(
        name="cachd_retries_total",
        kind="counter",
        help="Parts tried again, by cause.",
        labels=("cause",),
        values="the code of the error that caused it, such as origin_busy, origin_stalled",
    ),
    Metric(
        name="cachd_breaker_changes_total",
        kind="counter",
        help="Changes of origins' circuit breakers, by the new state.",
        labels=("state",),
        values="open (left alone), half_open (probed), closed (called as ever)",
    ),
    Metric(
        name="cachd_origin_held_seconds_total",
        kind="counter",
        help="Time that origins were left alone, by cause.",
        labels=("cause",),
        values="busy (429, 503), unreachable (failed connections, 5xx)",
    ),
    Metric(
        name="cachd_origins_held",
        kind="gauge",
        help="Origins that are left alone now.",
    ),
    Metric(
        name="cachd_refreshes_total",
        kind="counter",
        help="Looks at models by schedule (freshness.refresh), by what came of them.",
        labels=("result",),
        values="unchanged, changed, held (the new revision waits to be given), failed, skipped",
    ),
    Metric(
        name="cachd_updates_total",
        kind="counter",
        help="New revisions of models that are cached, by how far they came.",
        labels=("state",),
        values="seen (at the source), ready (here, and not given yet), promoted (given from now "
        "on)",
    ),
    Metric(
        name="cachd_updates_waiting",
        kind="gauge",
        help="Models whose source has a newer revision than the one that is given.",
        gauge="updates",
    ),
    Metric(
        name="cachd_registry_asks_total",
        kind="counter",
        help="Questions to registries what a name means.",
        labels=("registry", "result"),
        values="registry: a name of sources.registries, or other; result: named, unknown (it has "
        "no such model or version), refused, failed",
    ),
    Metric(
        name="cachd_probes_total",
        kind="counter",
        help="Questions to a source whether a caller may read what is cached.",
        labels=("result",),
        values="allowed, denied, failed, remembered",
    ),
    Metric(
        name="cachd_evictions_total",
        kind="counter",
        help="Snapshots let go, by reason.",
        labels=("reason",),
        values="superseded, quota, namespace, watermark, volume, expired, requested",
    ),
    Metric(
        name="cachd_evicted_bytes_total",
        kind="counter",
        help="Bytes freed by snapshots let go, by reason.",
        labels=("reason",),
        values="as cachd_evictions_total",
    ),
    Metric(name="cachd_scrub_bytes_total", kind="counter", help="Bytes read against checksums."),
    Metric(name="cachd_bad_blocks_total", kind="counter", help="Blocks found bad on disk."),
    Metric(name="cachd_repaired_blocks_total", kind="counter", help="Bad blocks made good."),
    Metric(name="cachd_workers", kind="gauge", help="Worker processes that are running."),
    Metric(name="cachd_connections", kind="gauge", help="Connections to origins that are in use."),
    Metric(
        name="cachd_parts_waiting", kind="gauge", help="Ranges that no connection has taken yet."
    ),
    Metric(
        name="cachd_flights_in_flight",
        kind="gauge",
        help="Fetches that are running.",
        gauge="flights_in_flight",
    ),
    Metric(
        name="cachd_flights_queued",
        kind="gauge",
        help="Fetches that wait for their turn.",
        gauge="flights_queued",
    ),
    Metric(
        name="cachd_listings_queued",
        kind="gauge",
        help="Models that wait to be listed at their sources.",
        gauge="listings_queued",
    ),
    Metric(
        name="cachd_kubernetes_events_total",
        kind="counter",
        help="Events about models for the API server.",
        labels=("result",),
        values="created, updated (the same again), dropped (too many), failed",
    ),
    Metric(
        name="cachd_node_label_patches_total",
        kind="counter",
        help="Changes of this node's labels.",
        labels=("result",),
        values="patched, failed",
    ),
    Metric(
        name="cachd_prefetch_wanted",
        kind="gauge",
        help="Models that the setting prefetch names.",
        gauge="prefetch_wanted",
    ),
    Metric(
        name="cachd_prefetch_ready",
        kind="gauge",
        help="Those of them that are here.",
        gauge="prefetch_ready",
    ),
    Metric(
        name="cachd_prefetch_failed",
        kind="gauge",
        help="Those of them that couldn't be had at the last try.",
        gauge="prefetch_failed",
    ),
)
