"""When a newer revision becomes what is given: by the rules of ``freshness.refresh``, or because a
person says so. Until then it lies beside what is current, and takes nothing away from anybody.

A rule never moves what a person rolled back: those revisions are *refused* until they are promoted
again. Where a source has no validators nothing is held, for what one caller is shown of it is no
newer state of what another one was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from cachd.cache.mirrors import matches
from cachd.cache.types import Promoted, Update
from cachd.cache.uninterrupted import uninterrupted
from cachd.errors import DiskError, InvalidError, ModelCorrupt, ModelUnknown, StoreError
from cachd.settings.windows import is_any_open
from cachd.store.updates import REFUSED_MOST, UpdateRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cachd.cache.events import EventBus
    from cachd.metrics import Metrics
    from cachd.model import ManifestFile, Plan, Ref
    from cachd.settings import RefreshRule
    from cachd.store.ingest import Ingest
    from cachd.store.store import Store
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.cache")


def rule_of(ref: Ref, rules: Sequence[RefreshRule]) -> RefreshRule | None:
    """The first rule that means the ref."""
    return next((rule for rule in rules if matches(rule.match, ref)), None)


def is_held(
    rule: RefreshRule | None, record: UpdateRecord, revision: str, moment: datetime
) -> bool:
    """Whether ``revision`` may not become current by itself now. ``moment`` is local time: a clock
    that is set opens or shuts a window, and undoes nothing. Pure."""
    if revision == record.approved:
        return False
    if revision in record.refused:
        return True
    if rule is None or rule.move == "on_ready":
        return False
    return rule.move == "manual" or not is_any_open(rule.window, moment)


def refuse(record: UpdateRecord, target: str, current: str) -> tuple[str, ...]:
    """What no rule takes up any more once a person makes ``target`` current in the place of
    ``current``: all that was known by then, unless it is what the source has now. Pure."""
    known = () if target == record.waiting else (current, record.waiting)
    wanted = dict.fromkeys((*record.refused, *known))
    return tuple(each for each in wanted if each not in ("", target))[-REFUSED_MOST:]


def approve(record: UpdateRecord, target: str, by: str, now: float) -> UpdateRecord | None:
    """The record where a person has a revision become current that isn't here: what waits, or,
    where nothing does, what was refused and made room since. None: nobody knows of it. Pure."""
    if target == record.waiting:
        return replace(record, approved=target, approver=by)
    if record.waiting or target not in record.refused:
        return None
    refused = tuple(each for each in record.refused if each != target)
    return replace(record, waiting=target, seen=now, refused=refused, approved=target, approver=by)


class Updates:
    """Of all models. ``moment`` gives the local time."""

    def __init__(
        self,
        store: Store,
        rules: Sequence[RefreshRule],
        metrics: Metrics,
        events: EventBus,
        *,
        moment: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._store = store
        self._rules = rules
        self._metrics = metrics
        self._events = events
        self._moment = moment
        self._moving = asyncio.Lock()

    # --- what holds ---------------------------------------------------------------------------

    def rule(self, ref: Ref) -> RefreshRule | None:
        return rule_of(ref, self._rules)

    def _is_held(self, ref: Ref, revision: str) -> bool:
        record = self._store.updates.get(ref.key)
        return is_held(self.rule(ref), record, revision, self._moment())

    def holds(self, current: StoredSnapshot, plan: Plan) -> bool:
        """Whether ``current`` goes on being given though the source has ``plan``."""
        return (
            plan.revision != current.revision
            and plan.is_validated
            and current.info.is_validated
            and self._is_held(current.ref, plan.revision)
        )

    @contextmanager
    def keeping(self, ref: Ref, plan: Plan) -> Iterator[None]:
        """While ``plan`` is fetched only to wait, what is given in its place makes no room for it:
        else what waits would be all that is left to give."""
        current = self._store.current(ref)
        with ExitStack() as stack:
            if current is not None and self.holds(current, plan):
                kept = self._store.reading(current.key, current.revision, is_use=False)
                stack.enter_context(kept)
            yield

    def is_known(self, current: StoredSnapshot, seen: str | None) -> bool:
        """Whether the source, having ``seen`` lately, needn't be asked again for ``current``."""
        record = self._store.updates.get(current.key)
        is_noted = bool(seen) and (seen == record.waiting or seen in record.refused)
        return is_noted and current.info.is_validated and self._is_held(current.ref, seen or "")

    def wants(self, ref: Ref, revision: str) -> bool:
        """Whether a held revision is to be fetched ahead. Once: what had to make room again is
        fetched when it may move."""
        record, rule = self._store.updates.get(ref.key), self.rule(ref)
        if record.was_here or revision in record.refused or rule is None or not rule.ahead:
            return False
        return self._here(ref, revision) is None

    def is_approved(self, ref: Ref, revision: str) -> bool:
        return self._store.updates.get(ref.key).approved == revision

    def _here(self, ref: Ref, revision: str) -> StoredSnapshot | None:
        found = self._store.get(ref.key, revision) if revision else None
        return found if found is not None and found.ref == ref and not found.damage else None

    # --- what is told -------------------------------------------------------------------------

    def of(self, ref: Ref) -> Update | None:
        """What waits for the ref."""
        record = self._store.updates.get(ref.key)
        if not record.waiting:
            return None
        rule = self.rule(ref)
        return Update(
            revision=record.waiting,
            state="ready" if self._here(ref, record.waiting) is not None else "seen",
            seen=record.seen,
            move=rule.move if rule is not None else "on_ready",
            window=rule.window if rule is not None else (),
            is_approved=record.approved == record.waiting,
        )

    def told(self, given: StoredSnapshot) -> Update | None:
        """What an answer says that gives ``given``."""
        update = self.of(given.ref)
        return update if update is not None and update.revision != given.revision else None

    def promoted(self, current: StoredSnapshot) -> Promoted | None:
        """Who made it current, where that was a person or a window; and what is refused since."""
        record = self._store.updates.get(current.key)
        if record.promoted != current.revision:
            return None
        return Promoted(
            revision=record.promoted, by=record.by, at=record.at, refused=record.refused
        )

    # --- what the source says -----------------------------------------------------------------

    async def note(self, current: StoredSnapshot, revision: str) -> bool:
        """The source has ``revision`` now; whether that is news. Never raises: what can't be
        written is known until the daemon ends."""
        ref, record = current.ref, self._store.updates.get(current.key)
        if revision == current.revision or revision in record.refused:
            if record.waiting:
                await self._put(ref.key, _without_waiting(record))
            return False
        if record.waiting == revision:
            return False
        is_here = self._here(ref, revision) is not None
        record = replace(_without_waiting(record), waiting=revision, seen=time.time())
        await self._put(ref.key, replace(record, was_here=is_here))
        self._tell("seen", ref, revision)
        if is_here:
            self._tell("ready", ref, revision)
        return True

    async def _put(self, key: str, record: UpdateRecord) -> None:
        try:
            await self._store.updates.put(key, record)
        except (DiskError, StoreError) as error:
            log.warning("what is known of an update of %s isn't kept: %s", key, error.message)

    def _tell(self, state: str, ref: Ref, revision: str, **more: str) -> None:
        self._metrics.updated(state)
        name = "promoted" if state == "promoted" else f"update_{state}"
        self._events.publish(name, key=ref.key, uri=ref.uri, revision=revision, **more)
        log.info("%s of %s: %s", state, ref.key, revision, extra={"key": ref.key})

    # --- what arrives -------------------------------------------------------------------------

    async def commit(
        self,
        ingest: Ingest,
        ref: Ref,
        plan: Plan,
        files: Sequence[ManifestFile],
        *,
        metadata: Mapping[str, str],
        keep: ExitStack,
    ) -> StoredSnapshot:
        """Publish what was fetched, and make it current unless it is held. Raises as
        ``Ingest.commit`` does."""
        before = self._store.current(ref)

        def is_held() -> bool:
            current = self._store.current(ref)
            return current is not None and self.holds(current, plan)

        snapshot = await ingest.commit(files, metadata=metadata, keep=keep, is_held=is_held)
        await self.landed(before, snapshot)
        return snapshot

    async def landed(
        self, before: StoredSnapshot | None, snapshot: StoredSnapshot, by: str = ""
    ) -> None:
        """``snapshot`` was published; ``before`` was current until then."""
        ref, revision = snapshot.ref, snapshot.revision
        record = self._store.updates.get(ref.key)
        if snapshot.is_current:
            if before is None or before.revision == revision:
                await self._put(ref.key, _without_waiting(record))
                return
            await self._moved(ref, revision, before.revision, by)
        elif record.waiting == revision:
            await self._put(ref.key, replace(record, was_here=True))
            self._tell("ready", ref, revision)
        elif before is not None and not record.waiting:
            await self.note(before, revision)

    async def _moved(self, ref: Ref, revision: str, previous: str, by: str = "") -> None:
        """By a rule, or because it was approved."""
        record, rule = self._store.updates.get(ref.key), self.rule(ref)
        known = replace(
            _without_waiting(record),
            refused=tuple(each for each in record.refused if each != revision),
        )
        if record.approved == revision:
            by = record.approver
            known = replace(known, promoted=revision, by=by, at=time.time())
        elif not by and rule is not None and rule.move == "schedule":
            by = "schedule"
            known = replace(known, promoted=revision, by=by, at=time.time())
        await self._put(ref.key, known)
        self._tell("promoted", ref, revision, previous=previous, by=by or "on_ready")

    # --- moving -------------------------------------------------------------------------------

    async def take(self, current: StoredSnapshot, revision: str) -> StoredSnapshot | None:
        """Make ``revision`` current, if it is what waited, is here and nothing holds it any more.
        Whoever goes away meanwhile, it is seen through. Raises DiskError."""
        if self._store.updates.get(current.key).waiting != revision:
            return None
        return await uninterrupted(self._take(current.ref, revision), f"take {current.key}")

    async def _take(self, ref: Ref, revision: str) -> StoredSnapshot | None:
        async with self._moving:
            is_waiting = self._store.updates.get(ref.key).waiting == revision
            if not is_waiting or self._here(ref, revision) is None or self._is_held(ref, revision):
                return None
            before = self._store.get(ref.key)
            await self._store.updates.promote(ref.key, revision)
            await self._moved(ref, revision, before.revision if before is not None else "")
            return self._here(ref, revision)

    async def move_due(self) -> None:
        """Make current what waits, is here, and may."""
        for key, revision in self._store.updates.waiting().items():
            current = self._store.get(key)
            if current is None:
                continue
            try:
                await self.take(current, revision)
            except (DiskError, StoreError) as error:
                log.error("%s can't be made current: %s", key, error.message)

    async def promote(self, key: str, revision: str | None, by: str) -> tuple[str, str, str]:
        """A person says what is current: which one, what was so before, and ``promoted``; or
        ``approved`` where it isn't here yet. Whoever goes away meanwhile, it is seen through; what
        fails changes nothing. Raises ModelUnknown, ModelCorrupt, InvalidError, DiskError."""
        return await uninterrupted(self._promote(key, revision, by), f"promote {key}")

    async def _promote(self, key: str, revision: str | None, by: str) -> tuple[str, str, str]:
        async with self._moving:
            store = self._store
            current, record = store.get(key), store.updates.get(key)
            snapshots = store.revisions(key)
            if not snapshots:
                raise ModelUnknown(
                    f"there is no model {key} in the cache", hint="`cachd ls` lists what there is"
                )
            previous = current.revision if current is not None else ""
            target = revision or record.waiting
            if not target:
                raise InvalidError(
                    f"no update of {key} is known",
                    field="revision",
                    hint=f"name a revision that is here: {_listed(snapshots)}",
                )
            found = store.get(key, target)
            if found is None and (approved := approve(record, target, by, time.time())) is not None:
                await self._decide(key, approved)
                return target, previous, "approved"
            if found is None or (current is not None and current.ref != found.ref):
                raise ModelUnknown(
                    f"{key} has no revision {target} on this node",
                    hint=f"here are: {_listed(snapshots)}",
                    revision=target,
                )
            if found.damage:
                raise ModelCorrupt(
                    f"{key} revision {target} is corrupt on this node's disk; nothing was changed",
                    hint=f"have it repaired: cachd verify --repair {key}",
                    key=key,
                    revision=target,
                )
            known = UpdateRecord(
                refused=refuse(record, target, previous), promoted=target, by=by, at=time.time()
            )
            with store.reading(key, target):
                await self._decide(key, known, target)
            if previous != target:
                self._tell("promoted", found.ref, target, previous=previous, by=by)
            return target, previous, "promoted"

    async def _decide(self, key: str, known: UpdateRecord, target: str = "") -> None:
        """What is refused is on the disk before the move is: a kill in between forgets nothing.
        What fails is forgotten."""
        record = self._store.updates.get(key)
        try:
            await self._store.updates.put(key, known)
            if target:
                await self._store.updates.promote(key, target)
        except BaseException:
            await self._put(key, record)
            raise


def _without_waiting(record: UpdateRecord) -> UpdateRecord:
    return replace(record, waiting="", seen=0.0, was_here=False, approved="", approver="")


def _listed(snapshots: Sequence[StoredSnapshot]) -> str:
    return ", ".join(f"{s.revision}{' (current)' if s.is_current else ''}" for s in snapshots)
