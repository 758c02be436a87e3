"""What is remembered of a model that its source has in a newer revision than the one that is given:
one small file a model, below ``state/updates/``.

Only what can't be seen on the disk is written: whether a revision is here is the snapshot's to
tell, and which one is given is ``current/<key>``'s. A daemon that doesn't know these files moves on
to the newest revision, as if nothing had been held.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from cachd.errors import ModelUnknown
from cachd.store.decode import are_texts, check, parse_object
from cachd.store.fsio import remove_file, replace_file
from cachd.store.layout import is_hex
from cachd.store.publish import set_current

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cachd.store.context import Context

log = logging.getLogger("cachd.store")

_LATEST = 253402300800.0
"""The year 10000, in seconds since the epoch: what a date can't be."""

REFUSED_MOST = 16
"""Revisions that are remembered as refused, the latest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """``waiting``: what the source has and nobody is given, "" for none; ``seen``: since when, in
    seconds since the epoch. ``was_here``: it was fetched once. ``approved``: what becomes current
    as soon as it is here, and ``approver``: who says so. ``refused``: what no rule makes current
    again. ``promoted``: what was made current last, ``by`` whom and ``at`` what time.
    """

    waiting: str = ""
    seen: float = 0.0
    was_here: bool = False
    approved: str = ""
    approver: str = ""
    refused: tuple[str, ...] = ()
    promoted: str = ""
    by: str = ""
    at: float = 0.0


NOTHING = UpdateRecord()


def read_record(path: Path) -> UpdateRecord:
    """Blocking. Raises OSError, ValueError."""
    try:
        data = parse_object(path.read_bytes())
        record = UpdateRecord(
            waiting=data["waiting"],
            seen=float(data["seen"]),
            was_here=bool(data["was_here"]),
            approved=data["approved"],
            approver=data["approver"],
            refused=tuple(data["refused"]),
            promoted=data["promoted"],
            by=data["by"],
            at=float(data["at"]),
        )
        check(are_texts((record.by, record.approver, *_revisions(record))), "the record")
        check(all(0 <= moment < _LATEST for moment in (record.seen, record.at)), "a time")
        check(all(is_hex(name) for name in _revisions(record) if name), "a revision")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no record of an update: {error!r}") from None
    return record


def _revisions(record: UpdateRecord) -> tuple[str, ...]:
    return (record.waiting, record.approved, record.promoted, *record.refused)


def settled(record: UpdateRecord, current: str | None) -> UpdateRecord:
    """``record`` where ``current`` is what is given: a kill may have come in between, or a daemon
    that knows nothing of updates. Pure."""
    if current is None:
        return NOTHING
    if current in (record.waiting, record.approved):
        record = replace(record, waiting="", seen=0.0, was_here=False, approved="", approver="")
    if current in record.refused:
        record = replace(record, refused=tuple(r for r in record.refused if r != current))
    return record


def take_up(path: Path, current: str | None) -> UpdateRecord:
    """What a file says where ``current`` is what is given; the file says no more afterwards, unless
    the disk is full. Blocking. Raises OSError, ValueError."""
    written = read_record(path)
    record = settled(written, current)
    try:
        if record == NOTHING:
            path.unlink()
        elif record != written:
            replace_file(path.parent, path.name, _encode(record), mode=0o600)
    except OSError as error:
        log.warning("what is over of the update %s isn't taken off the disk: %s", path.name, error)
    return record


def _encode(record: UpdateRecord) -> bytes:
    return json.dumps(asdict(record)).encode("ascii") + b"\n"


class UpdateRecords:
    """By key. What an open store knows of updates, in memory and on disk."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records: dict[str, UpdateRecord] = {}
        self._writing = asyncio.Lock()

    def restore(self, found: dict[str, UpdateRecord]) -> None:
        for key, record in found.items():
            self._keep(key, record)

    def get(self, key: str) -> UpdateRecord:
        return self._records.get(key, NOTHING)

    def waiting(self) -> dict[str, str]:
        """Revisions that wait, by key."""
        return dict(self._context.index.waiting)

    def _keep(self, key: str, record: UpdateRecord) -> None:
        waiting = self._context.index.waiting
        if record == NOTHING:
            self._records.pop(key, None)
        else:
            self._records[key] = record
        if record.waiting:
            waiting[key] = record.waiting
        else:
            waiting.pop(key, None)

    async def put(self, key: str, record: UpdateRecord) -> None:
        """Remember ``record``, from now on and over restarts. Raises DiskError: then it is known
        only until the daemon ends."""
        if record == self.get(key):
            return
        self._keep(key, record)
        async with self._writing:
            await self._write(key)

    async def _write(self, key: str) -> None:
        """What is known now, which may be newer than what its writer meant."""
        context, record = self._context, self.get(key)
        place = context.layout.updates
        with context.disk_errors("writing what is known of an update"):
            if record == NOTHING:
                await context.threads.run(remove_file, place / key)
            else:
                data = _encode(record)
                await context.threads.run(replace_file, place, key, data, mode=0o600)
        context.on_step("update written")

    async def tidy(self, keys: Iterable[str]) -> None:
        """Forget what is known of any but ``keys``."""
        kept = set(keys)
        for key in [key for key in self._records if key not in kept]:
            await self.put(key, NOTHING)

    async def promote(self, key: str, revision: str) -> None:
        """Make a revision current that is here; durable when this returns. Raises ModelUnknown,
        DiskError."""
        context = self._context
        row = context.index.snapshots.get((key, revision))
        if row is None:
            raise ModelUnknown(
                f"there is no model {key} revision {revision}", hint="`cachd ls` lists what is here"
            )
        with row.read(), context.disk_errors(f"promoting {key}"):
            async with context.names:
                await context.threads.run(
                    set_current, context.layout, key, revision, context.on_step
                )
                context.index.set_current(row)
        context.index.touch(row, context.clock.time_ns(), context.clock.monotonic())
