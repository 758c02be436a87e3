"""What may be given at once to whom, and what must be fetched."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.cache.access import (
    DAEMON,
    is_open,
    is_owner,
    may_use_daemon_identity,
    principal_of,
)
from cachd.cache.anywhere import check_way, resolve_anywhere
from cachd.cache.naming import Naming, lead, lead_back, lending_of, name, whole_principal
from cachd.cache.resolve import Asked, locate, prove
from cachd.cache.rules import Decision, both
from cachd.cache.singleflight import SingleFlight
from cachd.cache.types import Ask
from cachd.errors import Forbidden, ModelCorrupt, Offline, OriginError
from cachd.fetch.breaker import verdict_of

if TYPE_CHECKING:
    from cachd.cache.parts import Parts
    from cachd.cache.types import Caller, Result
    from cachd.model import Named, Plan, Ref
    from cachd.settings import Verb
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
        self._naming: SingleFlight[Naming] = SingleFlight()
        self._at_default: dict[Ref, bool] = {}

    def understand(self, ask: Ask, caller: Caller) -> Asked:
        """The ask with its ref and principal. Raises UriInvalid and its kin, and Forbidden where a
        rule keeps the caller from reading that."""
        ref, location = locate(ask, self._parts.resolver)
        decision = self._parts.policy.check(caller, "read", ref.uri)
        credentials = ask.credentials
        if location.secret_query:
            credentials = replace(credentials, query=location.secret_query, anonymous=False)
        access, lending = self._parts.settings.access, ""
        if location.registries:
            is_lent = decision.lends_identity
            lending = lending_of(caller, access, self._daemon_uid, is_lent=is_lent)
            principal = whole_principal(credentials, lending)
        else:
            principal = principal_of(
                credentials,
                caller,
                access,
                daemon_uid=self._daemon_uid,
                is_default_origin=location.is_default_origin,
                is_lent=decision.lends_identity,
            )
        if principal is DAEMON and not is_owner(caller, self._daemon_uid):
            own = replace(ask.options, verify=None, ca_pem=None)
            if location.scheme != "s3" and own != ask.options:
                # A token is shown: only where the daemon trusts by itself whom it shows it to.
                return self.understand(replace(ask, options=own), caller)
        return Asked(
            ask=ask,
            ref=ref,
            location=location,
            principal=principal,
            caller=caller,
            has_open_hits=decision.has_open_hits,
            lending=lending,
        )

    def check(self, asked: Asked, verb: Verb, named: Named | None = None) -> None:
        """Raises Forbidden where a rule keeps the caller from the URI, or from what the registry's
        name leads to, which isn't told then."""
        if asked.caller is None:
            return
        policy = self._parts.policy
        policy.check(asked.caller, verb, asked.ref.uri)
        if named is not None:
            policy.check(asked.caller, verb, named.uri, f"what {asked.ref.uri} leads to")

    def _may(self, asked: Asked, verb: Verb, named: Named | None) -> Decision:
        if asked.caller is None:
            return Decision(is_allowed=True, has_open_hits=asked.has_open_hits)
        decide = self._parts.policy.decide
        other = None if named is None else decide(asked.caller, verb, named.uri)
        return both(decide(asked.caller, verb, asked.ref.uri), other)

    def _is_at_default_origin(self, ref: Ref) -> bool:
        known = self._at_default.get(ref)
        if known is None:
            plain, location = locate(Ask(uri=ref.uri), self._parts.resolver)
            # Where a registry's name leads, the daemon's identity may not be lent.
            known = location.is_default_origin and plain.origin == ref.origin
            known = known and not location.registries
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
        named = snapshot.info.named if snapshot is not None else None
        if parts.settings.offline:
            self.check(asked, "read", named)
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
                    has_open_hits=self.has_open_hits(asked, named),
                )
                or parts.proofs.holds(principal, ref, snapshot.revision)
            )
        ):
            self.check(asked, "read", named)
            return Found(snapshot=snapshot, result="hit")
        if snapshot is None:
            self.check(asked, "fetch")
        has_stale = snapshot is not None and self._may_have_stale(asked, snapshot)
        patience = 0.0 if has_stale else parts.settings.fetch.origin_patience
        try:
            plan = await self._plan(asked, patience, is_new=snapshot is None)
        except OriginError as error:
            if snapshot is None or not has_stale or verdict_of(error) not in ("busy", "bad"):
                self._say_if_corrupt(asked, error.message)
                raise
            log.warning("%s is served stale: %s", ref.key, error.message)
            return Found(snapshot=snapshot, result="stale")
        snapshot = parts.store.current(ref)
        # Other validators at a mirror are no sign of a change at the origin, nor are the same ones
        # a sign that it has gone back to them.
        is_hearsay = bool(plan.mirror) and parts.upstreams.has_way_to_origins
        if snapshot is not None and snapshot.revision == plan.revision:
            if not is_hearsay:
                await parts.updates.note(snapshot, plan.revision)
            return Found(snapshot=snapshot, result="hit", was_asked=True)
        may_fetch = self._may(asked, "fetch", plan.named).is_allowed
        if snapshot is not None and (not is_hearsay or parts.updates.holds(snapshot, plan)):
            beside = await self._beside(
                asked,
                snapshot,
                plan,
                is_newest=is_newest,
                may_fetch=may_fetch,
                is_hearsay=is_hearsay,
            )
            if beside is not None:
                return beside
        if not may_fetch and (stale := self.stale(asked)) is not None:
            return stale
        self.check(asked, "fetch", plan.named)
        if is_hearsay and not parts.store.has_ingest(ref, plan.revision):
            # What was begun the origin had shown itself.
            return self.stale(asked) or plan
        return plan

    def _is_fresh(self, snapshot: StoredSnapshot) -> bool:
        ref, parts = snapshot.ref, self._parts
        return parts.freshness.is_fresh(
            ref, snapshot.info, snapshot.revision
        ) or parts.updates.is_known(snapshot, parts.freshness.seen(ref))

    async def _beside(
        self,
        asked: Asked,
        current: StoredSnapshot,
        plan: Plan,
        *,
        is_newest: bool,
        may_fetch: bool,
        is_hearsay: bool,
    ) -> Found | None:
        """What is given though the source has ``plan``, or what it has, where that is here already;
        None: it is to be fetched. ``is_hearsay``: a mirror says so."""
        parts, ref = self._parts, asked.ref
        if not parts.updates.holds(current, plan):
            taken = await parts.updates.take(current, plan.revision)
            return Found(snapshot=taken, result="hit", was_asked=True) if taken else None
        if not is_hearsay:
            await parts.updates.note(current, plan.revision)
        if not is_newest:
            if current.info.named != plan.named:
                await self._prove_kept(asked, current, plan)
            parts.proofs.record(asked.prover, ref, plan.revision, current.revision)
            is_wanted = parts.updates.wants(ref, plan.revision) and may_fetch
            is_wanted = is_wanted and (not is_hearsay or parts.store.has_ingest(ref, plan.revision))
            return Found(snapshot=current, result="hit", ahead=plan if is_wanted else None)
        newest = parts.store.get(ref.key, plan.revision)
        if newest is None or newest.ref != ref or newest.damage:
            return None
        return Found(snapshot=newest, result="hit", was_asked=True)

    async def _prove_kept(self, asked: Asked, current: StoredSnapshot, plan: Plan) -> None:
        """What is held back is another artifact than what is given: that it may have the one says
        nothing of the other. Raises Forbidden, AccessError and what the artifact's source says."""
        parts, info = self._parts, current.info
        self.check(asked, "read", info.named)
        if not info.is_credentialed or self.has_open_hits(asked, info.named):
            return
        if parts.settings.access.open_hits or parts.proofs.holds(
            asked.prover, asked.ref, current.revision
        ):
            return
        await prove(lead_back(asked, plan, info.named, parts), parts)

    async def prove_named(self, asked: Asked, named: Named | None) -> None:
        """See that the caller may have what the registry's name led to before. Raises Forbidden,
        AccessError and what registry and source say."""
        plan = await self._plan(asked, self._parts.settings.fetch.origin_patience, is_new=False)
        await prove(lead_back(asked, plan, named, self._parts), self._parts)

    async def _plan(self, asked: Asked, patience: float, *, is_new: bool) -> Plan:
        """What the ref means now. What a registry names is judged by the rules before anybody else
        is asked about it; callers who see the same share the calls, and each is judged."""
        parts = self._parts
        if asked.location.registries:
            check_way(asked, parts)
            name_key = (asked.ref, asked.principal.fingerprint)
            naming = await self._naming.run(name_key, lambda: name(asked, parts, patience))
            led = lead(asked, naming, parts)
            assert led.led is not None
            self.check(asked, "read", led.led.named)
            if is_new:
                self.check(asked, "fetch", led.led.named)
        else:
            led = asked
        prover = led.prover.fingerprint
        told = (led.location.origin, led.location.uri, led.principal.fingerprint)
        return await self._resolving.run(
            (asked.ref, prover, asked.avoid, asked.has_open_hits, told),
            lambda: resolve_anywhere(led, parts, patience),
        )

    def has_open_hits(self, asked: Asked, named: Named | None) -> bool:
        """Whether the rules give hits to the caller without a pass: of the URI, and of what a
        registry's name led to."""
        if named is None or not asked.has_open_hits:
            return asked.has_open_hits
        return self._may(asked, "read", named).has_open_hits

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
        named = snapshot.info.named
        if named is not None and not self._may(asked, "read", named).is_allowed:
            return False
        return (
            parts.settings.access.open_hits
            or self.has_open_hits(asked, named)
            or not snapshot.info.is_credentialed
            or (
                asked.principal.identity == snapshot.info.identity == "daemon"
                # Where the name led, the identity was perhaps not lent to this caller.
                and (named is None or asked.lending == "daemon")
            )
            or parts.proofs.ever_held(asked.prover, asked.ref, snapshot.revision)
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
