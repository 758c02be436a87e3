"""What a worker is told of a job, and what it tells of an archive's members. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cachd.model import Auth, ManifestFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cachd.errors import CachdError
    from cachd.fetch.job import FetchJob
    from cachd.settings import ArchiveSettings, EgressSettings, FetchSettings

CONNECT_LEAST = 1.0
CONNECT_MOST = 60.0
"""Seconds between which the connect timeout of a caller is taken."""

READ_MOST = 10.0
"""Times ``stall_window`` up to which the read timeout of a caller is taken."""


def time_limits(job: FetchJob, settings: FetchSettings) -> tuple[float | None, float | None]:
    """The plan's connect and read timeouts in seconds, within bounds.

    A fetch is shared: one caller's impatience, or its endless patience, is not the others'. So an
    answer is never judged earlier than ``stall_window`` says.
    """
    connect, read = job.plan.connect.connect_timeout, job.plan.connect.read_timeout
    window = settings.stall_window
    return (
        None if connect is None else _within(connect, CONNECT_LEAST, CONNECT_MOST),
        None if read is None else _within(read, window, READ_MOST * window),
    )


def extra_patience(job: FetchJob, settings: FetchSettings) -> float:
    """Seconds by which the job's own limits let a part be silent for longer than the settings'."""
    connect, read = time_limits(job, settings)
    return 2 * max(0.0, (connect or 0.0) - settings.connect_timeout) + max(
        0.0, (read or 0.0) - settings.stall_window
    )


def introduction(job: FetchJob, clock_offset: float, settings: FetchSettings) -> dict[str, Any]:
    """The order "job": all that a worker has to know before its first part."""
    connect_timeout, read_timeout = time_limits(job, settings)
    return {
        "do": "job",
        "job": job.id,
        "tree": str(job.tree.parent / "archive" if job.plan.unpack else job.tree),
        "s3": job.is_s3,
        "etags": job.takes_etags,
        "auth": asdict(job.auth),
        "connect": {
            "verify": job.plan.connect.verify,
            "ca_pem": job.plan.connect.ca_pem,
            "client_pem": job.plan.connect.client_pem,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
        },
        "clock_offset": clock_offset,
    }


def introduce_tree(job: str, tree: Path) -> dict[str, Any]:
    """The same for a tree that is only read: no origin is called for it."""
    connect = {
        "verify": True,
        "ca_pem": None,
        "client_pem": "",
        "connect_timeout": None,
        "read_timeout": None,
    }
    return {
        "do": "job",
        "job": job,
        "tree": str(tree),
        "s3": False,
        "etags": False,
        "auth": asdict(Auth()),
        "connect": connect,
        "clock_offset": 0.0,
    }


def setup_worker(
    settings: FetchSettings, archive: ArchiveSettings, egress: EgressSettings
) -> dict[str, Any]:
    """What a worker must know of the settings."""
    return {
        "connect_timeout": settings.connect_timeout,
        "stall_window": settings.stall_window,
        "stall_floor": int(settings.stall_floor),
        "egress": egress.model_dump(mode="json"),
        "archive": archive.model_dump(mode="json"),
    }


def grant(asked: dict[str, Any], error: CachdError | None) -> dict[str, Any]:
    """The answer to a worker that asked for more bytes."""
    wire = error.to_wire() if error else None
    return {"do": "grant", "job": asked["job"], "number": asked["number"], "error": wire}


def order_unpack(job: FetchJob, place: Path, files: Sequence[ManifestFile]) -> dict[str, Any]:
    """The task of unpacking the job's archive, which lies at ``place``; or of making its tree of
    all ``files``, which lie below it, by the plan's rules."""
    if job.plan.unpack == "rules":
        return {
            "kind": "arrange",
            "archive": str(place),
            "tree": str(job.tree),
            "rules": [asdict(rule) for rule in job.plan.rules],
            "files": [asdict(file) for file in files],
        }
    return {
        "kind": "unpack",
        "archive": str(place),
        "tree": str(job.tree),
        "format": job.plan.unpack,
        "name": job.plan.files[0].path,
    }


def unpacked_files(rows: Iterable[dict[str, Any]]) -> tuple[ManifestFile, ...]:
    """The members of an archive that was unpacked."""
    return tuple(ManifestFile.from_json(row) for row in rows)


def _within(value: float, least: float, most: float) -> float:
    """``value``, or the nearer bound; ``most`` for what is no number."""
    return max(least, min(most, value))
