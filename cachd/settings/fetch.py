"""How bytes are moved."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    ByteSize,
    Field,
)

from cachd.settings.values import (
    Seconds,
    Section,
)


class FetchSettings(Section):
    """How bytes are moved from origins."""

    connections: Annotated[int, Field(ge=1, le=512)] = 16
    """Connections in all. A quarter is for models that have none yet."""

    connections_per_origin: Annotated[int, Field(ge=1, le=512)] = 12
    """Connections to one origin (scheme, host, port)."""

    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Worker processes; 0: one per two cores, at least two."""

    worker_idle: Seconds = 60.0
    """Seconds after which idle workers are ended, and their memory is given back."""

    part_size: ByteSize = ByteSize(16 * 1024**2)
    """Bytes fetched and journalled as one; rounded to whole blocks of 8 MiB."""

    verify_etags: bool = True
    """Compare the ETags of S3 objects that are MD5s, where there is no better checksum. That takes
    1.3 CPU seconds a GB, and bounds one file's speed to what one core sums; without it such
    objects are kept unverified."""

    bandwidth: ByteSize | None = None
    """Bytes per second over all fetches; None: no cap."""

    attempts: Annotated[int, Field(ge=1)] = 6
    """Tries per part before the fetch fails."""

    backoff_base: Annotated[float, Field(gt=0)] = 0.5
    """Seconds before the first retry; doubled each time, with full jitter."""

    backoff_max: Annotated[float, Field(gt=0)] = 30.0
    """Longest wait between tries, unless the origin's Retry-After says more."""

    breaker_failures: Annotated[int, Field(ge=0)] = 8
    """Failed connections and 5xx answers of one origin in a row, over all models, after which it is
    left alone for a while: from `backoff_base` on, doubled up to `backoff_max`, so that one that
    comes back is noticed within that. A 429 or 503 does so at once, for as long as it says. Then
    one call probes it, and the others follow in growing numbers. 0: only 429 and 503 do."""

    origin_patience: Seconds = 10.0
    """Seconds that a new ask waits for an origin that is left alone; where that is not enough it
    fails at once with `origin_busy` or `origin_unreachable` and a Retry-After. What can be served
    stale is, without waiting."""

    connect_timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds for DNS, connection and TLS handshake."""

    stall_window: Annotated[float, Field(gt=0)] = 30.0
    """Seconds over which a connection's rate is judged …"""

    stall_floor: ByteSize = ByteSize(16 * 1024)
    """… against this many bytes per second; slower is a stall, and the part is tried again."""

    deadline: Seconds = 0.0
    """Seconds that one model's fetch may take; 0: no limit."""

    linger: Seconds = 300.0
    """Seconds that a fetch goes on when nobody waits for it any more: restarting init containers
    come back. Then it stops, and its journal is kept."""

    max_concurrent_models: Annotated[int, Field(ge=1)] = 64
    """Models fetched at the same time; more wait in the queue. What nobody waits for takes at most
    three quarters of the places."""

    max_queued_models: Annotated[int, Field(ge=1)] = 1000
    """Models that may wait in the queue; more are refused with `overloaded`."""
