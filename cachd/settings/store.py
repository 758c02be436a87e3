"""What is kept on the disk: quota, eviction, leases, scrub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    ByteSize,
    Field,
    field_validator,
    model_validator,
)

from cachd.settings.values import (
    Percent,
    Seconds,
    Section,
    Share,
    ShareOfInodes,
    ShareOfVolume,
)

SMALLEST_QUOTA = 1024**2
"""Bytes; a quota below it is a number whose unit was forgotten."""


class KubeletSettings(Section):
    """kubelet's own eviction thresholds, so that cachd lets idle models go before kubelet evicts
    pods, whoever fills the volume. What must stay free is the largest of these with the margin, and
    of `store.free_floor` and `store.inode_floor`. None: not watched; the chart sets kubelet's
    defaults. Give what `evictionHard` of your nodes says."""

    nodefs_available: ShareOfVolume | None = None
    """kubelet's `nodefs.available` (its default: 10%): bytes or a share. None: no threshold."""

    imagefs_available: ShareOfVolume | None = None
    """kubelet's `imagefs.available` (its default: 15%). Which of the two holds for the cache's
    volume isn't known, so the larger one counts. None: no threshold."""

    nodefs_inodes_free: ShareOfInodes | None = None
    """kubelet's `nodefs.inodesFree` (its default: 5%): a number or a share. None: no threshold."""

    margin: ShareOfVolume = Share("3%")
    """What stays free above kubelet's threshold: it looks every 10 s, and evicting takes time."""

    inodes_margin: ShareOfInodes = Share("1%")
    """The same for inodes."""

    def floor(self, volume_bytes: int) -> int:
        """Bytes that must stay free; 0: no threshold."""
        thresholds = [
            share.resolve(volume_bytes)
            for share in (self.nodefs_available, self.imagefs_available)
            if share is not None
        ]
        return max(thresholds) + self.margin.resolve(volume_bytes) if thresholds else 0

    def inode_floor(self, inodes: int) -> int:
        """Inodes that must stay free; 0: no threshold."""
        if self.nodefs_inodes_free is None:
            return 0
        return self.nodefs_inodes_free.resolve(inodes) + self.inodes_margin.resolve(inodes)


class StoreSettings(Section):
    """Where models are kept, and how much of the volume they may take."""

    root: Path | None = None
    """Directory that the daemon owns. None: `$XDG_CACHE_HOME/cachd`, else `~/.cache/cachd`."""

    quota: ShareOfVolume = Share("80%")
    """Most that the cache may allocate, reservations included: bytes, or a share of the volume."""

    namespace_quotas: dict[str, ShareOfVolume] = {}  # noqa: RUF012  (pydantic copies it)
    """Most that each namespace may hold: a pattern (`*`, `?`) over its name to bytes or a share of
    the volume; the first that matches counts. The namespace whose ask began a fetch pays for it. At
    the limit its own idle models go, never another's. `*` also means callers without a
    service-account token, as one namespace. In the environment: JSON."""

    free_floor: ShareOfVolume = Share("18%")
    """Free space that is left to others. The default lies above kubelet's image-filesystem
    eviction threshold (15 %), so that cachd lets go before kubelet evicts pods."""

    high_watermark: Percent = 95.0
    """Percent of the quota above which idle models are evicted in the background …"""

    low_watermark: Percent = 85.0
    """… until this percent is reached. Lower than `high_watermark`."""

    inode_floor: Percent = 3.0
    """Percent of the volume's inodes that is left to others; kubelet watches them too."""

    min_idle: Seconds = 60.0
    """Seconds since a model's last use before the *background* may evict it. A request that needs
    room may evict an idle model at once."""

    watch_interval: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between looks at the volume, which others write to as well. The nearer its free space
    is to the floor the sooner comes the next look, so that a quick writer is noticed."""

    kubelet_eviction: KubeletSettings = KubeletSettings()

    partial_ttl: Seconds = 86400.0
    """Seconds that an unfinished ingest is kept for resuming."""

    quarantine_ttl: Seconds = 7 * 86400.0
    """Seconds that wrong bytes are kept for a person to look at."""

    quarantine_quota: ShareOfVolume = Share(str(1024**3))
    """Most that wrong bytes kept for a person to look at may take, inside the quota."""

    expected_mount: Path | None = None
    """This path must be a mount point and hold the root; else the daemon refuses to start, so that
    an unmounted disk doesn't fill the system's."""

    expected_volume_id: str | None = None
    """File-system UUID, or the content of a file `.volume-id` at the root's mount point, that must
    be found."""

    readonly_root: Path | None = None
    """A read-only mount of the same root. With it the socket `files.sock` beside the pods' socket
    gives open descriptors, which nobody can reopen for writing. None: no such socket."""

    views_mode: str = "2775"
    """Octal mode of `views/`, which kubelet gives to the directories that it makes there for pods;
    see docs/operations.md. With `2777` pods of any uid may create files at the top of a private
    copy, and whoever mounts all of `views/` may change every pod's."""

    standby: bool = False
    """Wait (live, not ready) while another daemon holds the root, instead of refusing to start."""

    @field_validator("quota")
    @classmethod
    def _quota_has_a_unit(cls, quota: Share) -> Share:
        if not quota.endswith("%") and int(quota) < SMALLEST_QUOTA:
            raise ValueError(f"{quota} bytes? write a unit, such as 200GiB")
        return quota

    @field_validator("views_mode")
    @classmethod
    def _views_mode_works(cls, mode: str) -> str:
        if not re.fullmatch(r"[0-3]?[0-7]{3}", mode) or int(mode, 8) & 0o755 != 0o755:
            raise ValueError(f"views_mode is octal and has 755 in it, such as 2775, not {mode!r}")
        return mode

    @model_validator(mode="after")
    def _watermarks_make_sense(self) -> StoreSettings:
        if self.low_watermark >= self.high_watermark:
            raise ValueError(
                f"low_watermark ({self.low_watermark:g}) must be below high_watermark "
                f"({self.high_watermark:g})"
            )
        return self


class LeaseSettings(Section):
    provider: Literal["ttl", "kubernetes", "cgroup"] = "ttl"
    """How the daemon learns that a pod is gone, which ends its leases and its views: from the API
    server (`kubernetes`, with `kubernetes.enabled`), from the pods' cgroups (`cgroup`, in the
    host's pid namespace), or not at all (`ttl`: they end when nobody renews them)."""

    pod_grace: Seconds = 5.0
    """Seconds that a pod must have been seen gone before its leases and views end."""

    reboot_grace: Seconds = 600.0
    """Seconds after a start on a new boot during which no pod counts as gone: kubelet brings the
    same pods back."""

    require_pod_proof: bool = False
    """Take a pod's uid only from a caller that proves to be that pod: by a token that is bound to
    it, or by its cgroup. Off: whoever knows the uid may name it."""

    cgroup_root: Path = Path("/sys/fs/cgroup")
    """Where the host's cgroups are mounted, for the provider `cgroup`. Where they aren't, pods are
    known by their processes alone."""

    ttl: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that a lease lives without renewal, where a request doesn't say."""

    max_ttl: Annotated[float, Field(gt=0)] = 7 * 86400.0
    """Most that a request may ask for."""

    max_per_key: Annotated[int, Field(ge=1)] = 1000
    """Most leases of one model."""

    max_total: Annotated[int, Field(ge=1)] = 100_000
    """Most leases in all."""


class ScrubSettings(Section):
    """Reading what is cached against its checksums, in idle time."""

    interval: Seconds = 7 * 86400.0
    """Seconds within which everything is read once; 0: never in the background. Disks rot slowly,
    and a week of reading costs little."""

    rate: ByteSize = ByteSize(64 * 1024**2)
    """Bytes per second that are read at most; 0: no limit. Also for `cachd verify`, unless it says
    otherwise. The default leaves most of any disk to others."""

    repair: bool = True
    """Fetch bad blocks again, where that needs no caller's credentials. Off: only find them."""
