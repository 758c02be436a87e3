"""What may be given at once to whom, and what must be fetched."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.cache.access import is_open, is_owner, may_use_daemon_identity, principal_of
from cachd.cache.anywhere import resolve_anywhere
from cachd.cache.resolve import Asked, locate
from cachd.cache.singleflight import SingleFlight
from cachd.cache.types import Ask
from cachd.errors import Forbidden, ModelCorrupt, Offline, OriginError
from cachd.fetch.breaker import verdict_of

if TYPE_CHECKING:
    from cachd.cache.parts import Parts
    from cachd.cache.rules import Decision
    from cachd.cache.types import Caller, Result
    from cachd.model import Plan, Ref
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.cache")

_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A snapshot that may be given, and what to call that. ``was_asked``: the source has just said
    that this is the present state. ``ahead``: the plan of the newer one that it has, which is to be
    fetched while this one goes on being given."""

    snapshot: StoredSnapshot
    result: Result
    was_asked: bool = False
    ahead: Plan | None = None


def corrupt_error(snapshot: StoredSnapshot, more: str = "") -> ModelCorrupt:
    """Why a snapshot that is there is not given."""
    files = len(snapshot.damage)
    return ModelCorrupt(
        f"the cached copy of {snapshot.ref.uri} is corrupt on this node's disk ({files} "
        f"{'file is' if files == 1 else 'files are'} bad), so it is not given.{more}",
        key=snapshot.key,
        revision=snapshot.revision,
    )


class Lookup:
    """Decides hits by ref, freshness and the caller's own pass."""

    def __init__(self, parts: Parts, daemon_uid: int | None) -> None:
        self._parts = parts
        self._daemon_uid = daemon_uid
        self._resolving: SingleFlight[Plan] = SingleFlight()
        self._at_default: dict[Ref, bool] = {}

    def understand(self, ask: Ask, caller: Caller) -> Asked:
        """The ask with its ref and principal. Raises UriInvalid and its kin, and Forbidden where a
        rule keeps the caller from reading that."""
        ref, location = locate(ask, self._parts.resolver)
        decision = self._parts.policy.check(caller, "read", ref.uri)
        credentials = ask.credentials
        if location.secret_query:
            credentials = replace(credentials, query=location.secret_query, anonymous=False)
        principal = principal_of(
            credentials,
            caller,
            self._parts.settings.access,
            daemon_uid=self._daemon_uid,
            is_default_origin=location.is_default_origin,
            is_lent=decision.lends_identity,
        )
        return Asked(
            ask=ask,
            ref=ref,
            location=location,
            principal=principal,
            caller=caller,
            has_open_hits=decision.has_open_hits,
        )

    def check_fetch(self, asked: Asked) -> None:
        """Raises Forbidden where a rule keeps the caller from what isn't cached."""
        if asked.caller is not None:
            self._parts.policy.check(asked.caller, "fetch", asked.ref.uri)

    def _may_fetch(self, asked: Asked) -> bool:
        if asked.caller is None:
            return True
        return self._parts.policy.decide(asked.caller, "fetch", asked.ref.uri).is_allowed

    def _is_at_default_origin(self, ref: Ref) -> bool:
        known = self._at_default.get(ref)
        if known is None:
            plain, location = locate(Ask(uri=ref.uri), self._parts.resolver)
            known = location.is_default_origin and plain.origin == ref.origin
            if len(self._at_default) >= _REMEMBERED:
                self._at_default.clear()
            self._at_default[ref] = known
        return known

    async def find(
        self, asked: Asked, *, is_forced: bool = False, is_newest: bool = False
    ) -> Found | Plan:
        """What may be given at once, or the plan of what must be fetched. ``is_forced``: ask the
        source, however fresh the snapshot is. ``is_newest``: what that has now, though it is held.
        """
        parts, ref, principal = self._parts, asked.ref, asked.principal
        snapshot = parts.store.current(ref)
        if parts.settings.offline:
            return self._find_offline(asked, snapshot)
        if (
            snapshot is not None
            and not is_forced
            and self._is_fresh(snapshot)
            and (
                is_open(
                    snapshot.info,
                    principal,
                    parts.settings.access,
                    has_open_hits=asked.has_open_hits,
                )
                or parts.proofs.holds(principal, ref, snapshot.revision)
            )
        ):
            return Found(snapshot=snapshot, result="hit")
        if snapshot is None:
            self.check_fetch(asked)
        has_stale = snapshot is not None and self._may_have_stale(asked, snapshot)
        patience = 0.0 if has_stale else parts.settings.fetch.origin_patience
        try:
            plan = await self._resolving.run(
                (ref, principal.fingerprint, asked.avoid, asked.has_open_hits),
                lambda: resolve_anywhere(asked, parts, patience),
            )
        except OriginError as error:
            if snapshot is None or not has_stale or verdict_of(error) not in ("busy", "bad"):
                self._say_if_corrupt(asked, error.message)
                raise
            log.warning("%s is served stale: %s", ref.key, error.message)
            return Found(snapshot=snapshot, result="stale")
        snapshot = parts.store.current(ref)
        if snapshot is not None and snapshot.revision == plan.revision:
            await parts.updates.note(snapshot, plan.revision)
            return Found(snapshot=snapshot, result="hit", was_asked=True)
        is_hearsay = bool(plan.mirror) and parts.upstreams.has_way_to_origins
        if snapshot is not None and not is_hearsay:
            beside = await self._beside(asked, snapshot, plan, is_newest=is_newest)
            if beside is not None:
                return beside
        if not self._may_fetch(asked) and (stale := self.stale(asked)) is not None:
            return stale
        self.check_fetch(asked)
        if is_hearsay and not parts.store.has_ingest(ref, plan.revision):
            # Other validators at a mirror are no sign of a change at the origin; what was begun
            # there the origin had shown itself.
            return self.stale(asked) or plan
        return plan

    def _is_fresh(self, snapshot: StoredSnapshot) -> bool:
        ref, parts = snapshot.ref, self._parts
        return parts.freshness.is_fresh(
            ref, snapshot.info, snapshot.revision
        ) or parts.updates.is_known(snapshot, parts.freshness.seen(ref))

    async def _beside(
        self, asked: Asked, current: StoredSnapshot, plan: Plan, *, is_newest: bool
    ) -> Found | None:
        """What is given though the source has ``plan``, or what it has, where that is here already;
        None: it is to be fetched."""
        parts, ref = self._parts, asked.ref
        if not parts.updates.holds(current, plan):
            taken = await parts.updates.take(current, plan.revision)
            return Found(snapshot=taken, result="hit", was_asked=True) if taken else None
        await parts.updates.note(current, plan.revision)
        parts.proofs.record(asked.principal, ref, plan.revision, current.revision)
        if not is_newest:
            is_wanted = parts.updates.wants(ref, plan.revision) and self._may_fetch(asked)
            return Found(snapshot=current, result="hit", ahead=plan if is_wanted else None)
        newest = parts.store.get(ref.key, plan.revision)
        if newest is None or newest.ref != ref or newest.damage:
            return None
        return Found(snapshot=newest, result="hit", was_asked=True)

    def stale(self, asked: Asked) -> Found | None:
        """What is cached, if it may be given while the source can't be had."""
        snapshot = self._parts.store.current(asked.ref)
        if snapshot is None or not self._may_have_stale(asked, snapshot):
            return None
        return Found(snapshot=snapshot, result="stale")

    def _find_offline(self, asked: Asked, snapshot: StoredSnapshot | None) -> Found:
        if snapshot is None:
            self._say_if_corrupt(asked, "the daemon is offline")
            raise Offline(
                f"{asked.ref.uri} is not in the cache and the daemon is offline",
                hint="carry it here with `cachd export` and `cachd import`",
                key=asked.ref.key,
            )
        if snapshot.info.is_credentialed and not self._may_have_stale(asked, snapshot):
            raise Forbidden(
                f"{asked.ref.uri} needed credentials, and offline nobody can check yours",
                hint="set access.open_hits if every caller of this node may have it",
            )
        return Found(snapshot=snapshot, result="hit", was_asked=True)

    def _say_if_corrupt(self, asked: Asked, why: str) -> None:
        """Raises ModelCorrupt where only damage keeps the caller from what is cached."""
        kept = self._parts.store.current_even_corrupt(asked.ref)
        if kept is not None and kept.damage and self._may_have_stale(asked, kept):
            raise corrupt_error(kept, f" It can't be fetched again now: {why}")

    def _may_have_stale(self, asked: Asked, snapshot: StoredSnapshot) -> bool:
        """Whether the cached revision may be given while the source can't be asked."""
        parts = self._parts
        if not parts.settings.freshness.serve_stale and not parts.settings.offline:
            return False
        return (
            parts.settings.access.open_hits
            or asked.has_open_hits
            or not snapshot.info.is_credentialed
            or asked.principal.identity == snapshot.info.identity == "daemon"
            or parts.proofs.ever_held(asked.principal, asked.ref, snapshot.revision)
        )

    def may_see(self, snapshot: StoredSnapshot, caller: Caller, decision: Decision) -> bool:
        """Without asking the source: what this caller could have had a moment ago. ``decision``:
        what the rules say of its reading it."""
        settings = self._parts.settings.access
        if not decision.is_allowed:
            return False
        if caller.role in ("admin", "peer") or not snapshot.info.is_credentialed:
            return True
        if settings.open_hits or decision.has_open_hits:
            return True
        is_lent = decision.lends_identity or may_use_daemon_identity(
            caller, settings, self._daemon_uid
        )
        if not is_lent:
            return False
        if not is_owner(caller, self._daemon_uid) and not self._is_at_default_origin(snapshot.ref):
            # The daemon's identity isn't lent to endpoints that callers choose.
            return False
        return snapshot.info.identity == "daemon" or self._parts.proofs.ever_held_by_daemon(
            snapshot.ref, snapshot.revision
        )
