"""Leases: promises not to evict, each a small file, so that a restart forgets none.

The id is a pass to read, so it never reaches the disk: the file's name, and the lease's handle, is
its sha256. After a restart each lease gets its time anew, for nobody could renew it meanwhile. One
that names a pod whose end somebody will tell has no time: it ends with the pod.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachd.errors import InvalidError, LeaseUnknown, TooManyLeases
from cachd.store.decode import are_texts, check, parse_object
from cachd.store.fsio import remove_file, replace_file
from cachd.store.types import StoredLease

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cachd.settings import LeaseSettings
    from cachd.store.context import Context
    from cachd.store.rows import Row

log = logging.getLogger("cachd.store")


MAX_PER_POD = 16
"""Leases of one pod on one revision: each start of one of its containers takes one."""


def handle_of(lease_id: str) -> str:
    return hashlib.sha256(lease_id.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class _Lease:
    handle: str
    row: Row
    holder: str
    ttl: float
    expires: float
    pod: str = ""
    boot_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFile:
    """What is on disk. ``ttl`` in seconds. With ``pod`` it lives as long as that."""

    handle: str
    key: str
    revision: str
    holder: str
    ttl: float
    boot_id: str
    pod: str = ""

    def encode(self) -> bytes:
        data = {
            "key": self.key,
            "revision": self.revision,
            "holder": self.holder,
            "ttl": self.ttl,
            "boot_id": self.boot_id,
            **({"pod": self.pod} if self.pod else {}),
        }
        return json.dumps(data).encode("ascii") + b"\n"


def read_lease(path: Path) -> LeaseFile:
    """Blocking. Raises OSError, ValueError."""
    try:
        data = parse_object(path.read_bytes())
        lease = LeaseFile(
            handle=path.name,
            key=data["key"],
            revision=data["revision"],
            holder=data["holder"],
            ttl=float(data["ttl"]),
            boot_id=data["boot_id"],
            pod=data.get("pod", ""),
        )
        texts = (lease.key, lease.revision, lease.holder, lease.boot_id, lease.pod)
        check(are_texts(texts), "the lease")
        check(0 < lease.ttl < math.inf, "the lease's ttl")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no lease: {error!r}") from None
    return lease


class Leases:
    def __init__(self, context: Context, settings: LeaseSettings) -> None:
        self._context = context
        self._settings = settings
        self._leases: dict[str, _Lease] = {}

    def restore(self, files: Iterable[LeaseFile]) -> list[str]:
        """Take up what was on disk, each with its whole time; the handles of those whose snapshot
        is gone."""
        gone = []
        for file in files:
            row = self._context.index.snapshots.get((file.key, file.revision))
            if row is None:
                gone.append(file.handle)
                continue
            ttl = min(file.ttl, self._settings.max_ttl)
            # Without a provider nobody will tell when the pod is gone.
            pod = file.pod if self._settings.provider != "ttl" else ""
            self._hold(file.handle, row, file.holder, ttl, pod, file.boot_id)
        return gone

    def _hold(
        self, handle: str, row: Row, holder: str, ttl: float, pod: str, boot_id: str
    ) -> _Lease:
        expires = math.inf if pod else self._context.clock.monotonic() + ttl
        lease = _Lease(handle, row, holder, ttl, expires, pod, boot_id)
        self._leases[handle] = lease
        row.leases += 1
        return lease

    def _ttl(self, ttl: float | None) -> float:
        if ttl is None:
            return self._settings.ttl
        if not 0 < ttl <= self._settings.max_ttl:
            raise InvalidError(
                f"a lease's ttl is more than 0 and at most {self._settings.max_ttl:g} s, "
                f"not {ttl:g}",
                field="ttl",
                hint="renew the lease while it is used, or raise leases.max_ttl",
            )
        return ttl

    async def grant(self, row: Row, holder: str, ttl: float | None, pod: str = "") -> StoredLease:
        """A new lease; the row is held before the first await. With ``pod`` it ends with that, and
        of a pod that asks again and again the newest one makes way: who speaks in its name
        without a proof can't push out what it has. Raises InvalidError, TooManyLeases, DiskError.
        """
        lease_id, ttl = secrets.token_urlsafe(24), self._ttl(ttl)
        leases = self._leases.values() if pod else ()
        same = [each for each in leases if (each.pod, each.row) == (pod, row)]
        newest = same[MAX_PER_POD - 1 :]
        if not newest:
            self._check_limits(row.key)
        boot_id = self._context.boot_id
        lease = self._hold(handle_of(lease_id), row, holder, ttl, pod, boot_id)
        try:
            await self._write(lease)
            for each in newest:
                self._drop(each)
            await self._unlink([each.handle for each in newest])
        except BaseException:
            # Perhaps the file is there and only its writer was cancelled.
            self._drop(lease)
            self._context.background.own(self._unlink([lease.handle]), "lease undo")
            raise
        return self._show(lease, lease_id)

    def _check_limits(self, key: str) -> None:
        settings = self._settings
        for count, limit, what, name in (
            (self.count(key), settings.max_per_key, f"the model {key}", "max_per_key"),
            (self.count(None), settings.max_total, "the cache", "max_total"),
        ):
            if count >= limit:
                raise TooManyLeases(
                    f"{what} has {count} leases, and may have {limit}",
                    hint="renew the lease that you have, release leases that are no longer used "
                    f"or wait for their end (`cachd show KEY` lists them), or raise leases.{name}",
                    limit=limit,
                )

    async def _write(self, lease: _Lease) -> None:
        context = self._context
        file = LeaseFile(
            handle=lease.handle,
            key=lease.row.key,
            revision=lease.row.revision,
            holder=lease.holder,
            ttl=lease.ttl,
            boot_id=lease.boot_id,
            pod=lease.pod,
        )
        with context.disk_errors("writing a lease"):
            await context.threads.run(
                replace_file, context.layout.leases, lease.handle, file.encode(), mode=0o600
            )
        context.on_step("lease written")

    async def renew(self, lease_id: str, ttl: float | None) -> StoredLease:
        """From now on ``ttl`` (None: as long as before). Raises LeaseUnknown, InvalidError."""
        lease = self._leases.get(handle_of(lease_id))
        if lease is None:
            raise _unknown()
        new = lease.ttl if ttl is None else self._ttl(ttl)
        is_changed, lease.ttl = new != lease.ttl, new
        if not lease.pod:
            lease.expires = self._context.clock.monotonic() + new
        if is_changed:
            await self._write(lease)
            if lease.handle not in self._leases:
                await self._unlink([lease.handle])
        return self._show(lease, lease_id)

    async def release(self, lease_id: str) -> None:
        """By id, or by handle. Raises LeaseUnknown."""
        lease = self._leases.get(handle_of(lease_id)) or self._leases.get(lease_id)
        if lease is None:
            raise _unknown()
        self._drop(lease)
        await self._unlink([lease.handle])

    def _drop(self, lease: _Lease) -> None:
        if self._leases.pop(lease.handle, None) is not None:
            lease.row.leases -= 1
            lease.row.used_at = self._context.clock.monotonic()

    async def _unlink(self, handles: Iterable[str]) -> None:
        context = self._context
        for handle in handles:
            with context.disk_errors("removing a lease"):
                await context.threads.run(remove_file, context.layout.leases / handle)
            context.on_step("lease removed")

    async def forget(self, handles: Iterable[str]) -> None:
        """Remove lease files that stand for nothing."""
        await self._unlink(handles)

    async def expire(self) -> int:
        """Drop what is over; how many."""
        now = self._context.clock.monotonic()
        over = [lease for lease in self._leases.values() if lease.expires <= now]
        for lease in over:
            self._drop(lease)
            log.info(
                "lease of %s by %r expired",
                lease.row.key,
                lease.holder,
                extra={"key": lease.row.key},
            )
        await self._unlink([lease.handle for lease in over])
        return len(over)

    def pod_count(self) -> int:
        """Leases that live as long as a pod."""
        return sum(1 for lease in self._leases.values() if lease.pod)

    def pods(self) -> dict[str, str]:
        """The pods that leases live as long as, each with the boot of its latest lease."""
        return {lease.pod: lease.boot_id for lease in self._leases.values() if lease.pod}

    async def end_pod(self, pod: str) -> int:
        """Drop what lived as long as ``pod``; how many."""
        over = [lease for lease in self._leases.values() if lease.pod == pod]
        for lease in over:
            self._drop(lease)
        await self._unlink([lease.handle for lease in over])
        return len(over)

    async def break_all(self, row: Row) -> None:
        """An administrator removes the model by force."""
        broken = [lease for lease in self._leases.values() if lease.row is row]
        for lease in broken:
            self._drop(lease)
            log.warning("lease of %s by %r broken by force", row.key, lease.holder)
        await self._unlink([lease.handle for lease in broken])

    def find(self, lease_id: str) -> StoredLease | None:
        """The living lease with that id; a handle is no id."""
        lease = self._leases.get(handle_of(lease_id))
        if lease is None or lease.expires <= self._context.clock.monotonic():
            return None
        return self._show(lease, lease_id)

    def all(self, key: str | None) -> list[StoredLease]:
        """Of one key or all, without their ids."""
        return [
            self._show(lease, "")
            for lease in self._leases.values()
            if key is None or lease.row.key == key
        ]

    def count(self, key: str | None) -> int:
        """Of one key or all, without looking at each."""
        if key is None:
            return len(self._leases)
        return sum(row.leases for row in self._context.index.revisions(key))

    def _show(self, lease: _Lease, lease_id: str) -> StoredLease:
        left = max(0.0, lease.expires - self._context.clock.monotonic())
        return StoredLease(
            id=lease_id,
            handle=lease.handle,
            key=lease.row.key,
            revision=lease.row.revision,
            holder=lease.holder,
            ttl=lease.ttl,
            expires_in=None if left == math.inf else left,
            pod=lease.pod,
        )


def _unknown() -> LeaseUnknown:
    return LeaseUnknown(
        "there is no such lease; it may have expired",
        hint="take a new one, and renew it before its ttl is over",
    )
