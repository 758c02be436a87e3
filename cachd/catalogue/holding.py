"""Of what the store holds, and for whom."""

from __future__ import annotations

from cachd.catalogue.metric import Metric

HOLDING: tuple[Metric, ...] = (
    Metric(
        name="cachd_store_allocated_bytes",
        kind="gauge",
        help="Disk space that the cache has allocated.",
        gauge="allocated",
    ),
    Metric(
        name="cachd_store_reserved_bytes",
        kind="gauge",
        help="Space promised to fetches that run, less what they have allocated.",
        gauge="reserved",
    ),
    Metric(
        name="cachd_store_quota_bytes",
        kind="gauge",
        help="Most that the cache may allocate.",
        gauge="quota",
    ),
    Metric(
        name="cachd_store_free_bytes",
        kind="gauge",
        help="Free space of the volume, whoever uses the rest.",
        gauge="free",
    ),
    Metric(
        name="cachd_store_free_floor_bytes",
        kind="gauge",
        help="Free space that is left to others.",
        gauge="free_floor",
    ),
    Metric(
        name="cachd_store_high_watermark_bytes",
        kind="gauge",
        help="Allocated space above which idle models are evicted in the background.",
        gauge="high_watermark",
    ),
    Metric(
        name="cachd_store_low_watermark_bytes",
        kind="gauge",
        help="Allocated space at which the background eviction ends.",
        gauge="low_watermark",
    ),
    Metric(
        name="cachd_store_models",
        kind="gauge",
        help="Models that have a snapshot.",
        gauge="models",
    ),
    Metric(
        name="cachd_store_snapshots",
        kind="gauge",
        help="Snapshots: a model has one, or more while an old revision is in use.",
        gauge="snapshots",
    ),
    Metric(
        name="cachd_store_inodes",
        kind="gauge",
        help="Inodes that the cache uses.",
        gauge="inodes",
    ),
    Metric(
        name="cachd_store_free_inodes",
        kind="gauge",
        help="Free inodes of the volume.",
        gauge="inodes_free",
    ),
    Metric(
        name="cachd_store_volume_bytes",
        kind="gauge",
        help="Size of the volume.",
        gauge="volume_size",
    ),
    Metric(
        name="cachd_store_pinned_bytes",
        kind="gauge",
        help="Space of what is pinned.",
        gauge="pinned",
    ),
    Metric(
        name="cachd_store_leased_bytes",
        kind="gauge",
        help="Space of what is leased.",
        gauge="leased",
    ),
    Metric(
        name="cachd_store_ingest_bytes",
        kind="gauge",
        help="Space of unfinished ingests.",
        gauge="ingests",
    ),
    Metric(
        name="cachd_store_trash_bytes",
        kind="gauge",
        help="Space of what is being unlinked.",
        gauge="trash",
    ),
    Metric(
        name="cachd_digest_mismatches_total",
        kind="counter",
        help="Fetches whose bytes were refused: they contradict a digest.",
        labels=("against",),
        values="source (what the origin says of them), pin (what every caller asked for)",
    ),
    Metric(
        name="cachd_namespace_bytes",
        kind="gauge",
        help="What namespaces with a quota of their own pay for.",
        labels=("namespace",),
        values="the 100 largest namespaces that store.namespace_quotas matches, other",
        gauge="namespaces.bytes",
    ),
    Metric(
        name="cachd_namespace_quota_bytes",
        kind="gauge",
        help="Their quotas.",
        labels=("namespace",),
        values="as cachd_namespace_bytes",
        gauge="namespaces.quota",
    ),
    Metric(name="cachd_corrupt_snapshots", kind="gauge", help="Kept, but bad.", gauge="corrupt"),
    Metric(
        name="cachd_scrub_pass_timestamp_seconds",
        kind="gauge",
        help="When the last pass of the scrub over everything ended; 0: none yet.",
        gauge="scrub_pass",
    ),
    Metric(
        name="cachd_disk_errors_total",
        kind="counter",
        help="Calls that failed on the cache's volume.",
        labels=("errno",),
        values="enospc, edquot, eio, erofs, other",
    ),
    Metric(
        name="cachd_store_degraded",
        kind="gauge",
        help="1 while something is wrong with the store or its volume.",
        labels=("reason",),
        values="read_only, io_error (nothing can be fetched); disk_full, below_floor, "
        "eviction_paused (what was evicted is still held open), trash_stuck",
    ),
    Metric(name="cachd_leases", kind="gauge", help="Leases that are alive.", gauge="leases"),
    Metric(
        name="cachd_pod_leases",
        kind="gauge",
        help="Those of cachd_leases that live as long as a pod.",
        gauge="pod_leases",
    ),
    Metric(name="cachd_views", kind="gauge", help="Views that pods have.", gauge="views"),
    Metric(
        name="cachd_view_bytes",
        kind="gauge",
        help="Bytes that views alone hold: copies, and links to models that have gone.",
        gauge="view_bytes",
    ),
    Metric(
        name="cachd_pods_visible",
        kind="gauge",
        help="Whether the daemon can tell which pods are alive (leases.provider).",
        gauge="pods_visible",
    ),
    Metric(
        name="cachd_pods_answer_age_seconds",
        kind="gauge",
        help="Time since the API server, or the host's cgroups, last told of the pods.",
        gauge="pods_answer_age",
    ),
    Metric(name="cachd_pins", kind="gauge", help="Models that are pinned.", gauge="pins"),
    Metric(
        name="cachd_build_info",
        kind="gauge",
        help="Always 1; the version is the label.",
        labels=("version",),
        values="the version of this daemon",
    ),
)
