"""What callers may do to what is cached, found by key: the rules, and what the source has shown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachd.cache.resolve import locate
from cachd.cache.rules import both
from cachd.cache.types import Ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachd.cache.flight import Flight
    from cachd.cache.lookup import Lookup
    from cachd.cache.parts import Parts
    from cachd.cache.rules import Decision
    from cachd.cache.types import Caller, ModelInfo
    from cachd.model import Named, Ref
    from cachd.settings import Verb
    from cachd.store.types import StoredSnapshot


class Rights:
    def __init__(
        self, parts: Parts, lookup: Lookup, flights: Mapping[tuple[Ref, str], Flight]
    ) -> None:
        self._parts = parts
        self._lookup = lookup
        self._flights = flights

    def check_read(self, snapshot: StoredSnapshot, caller: Caller, *, is_passed: bool) -> bool:
        """Whether the caller may have what is there. ``is_passed``: it has shown a lease of it.
        Raises Forbidden where the rules refuse; the key alone is told, who has only that."""
        policy, named = self._parts.policy, snapshot.info.named
        decision = policy.check(caller, "read", snapshot.ref.uri, snapshot.key)
        if named is not None:
            decision = both(decision, policy.check(caller, "read", named.uri, snapshot.key))
        return is_passed or self._lookup.may_see(snapshot, caller, decision)

    def sight(
        self, caller: Caller
    ) -> tuple[Callable[[StoredSnapshot], bool], Callable[[Flight], bool]]:
        """Which snapshots and which flights ``caller`` is told of."""
        by_uri = self._parts.policy.reader(caller)

        def decide(uri: str, named: Named | None) -> Decision:
            return both(by_uri(uri), None if named is None else by_uri(named.uri))

        def may_see(snapshot: StoredSnapshot) -> bool:
            decision = decide(snapshot.ref.uri, snapshot.info.named)
            return self._lookup.may_see(snapshot, caller, decision)

        def may_follow(flight: Flight) -> bool:
            # A uid is no proof of who somebody is (half of all pods are uid 0 or 1000): a private
            # fetch is followed by asking for it.
            is_shown = caller.role == "admin" or not flight.is_private
            return is_shown and decide(flight.ref.uri, flight.plan.named).is_allowed

        return may_see, may_follow

    def sees_all(self, caller: Caller) -> bool:
        """Whether nothing that is cached is kept from ``caller``."""
        if caller.role == "admin":
            return True
        return self._parts.settings.access.open_hits and self._parts.policy.reads_all(caller)

    @staticmethod
    def veil(info: ModelInfo, caller: Caller) -> ModelInfo:
        """Without the names of others: another namespace, who promoted what."""
        if caller.role == "admin":
            return info
        namespace = info.namespace if info.namespace == caller.namespace else None
        return replace(info, namespace=namespace, promoted=None)

    def may_hear(self, event: dict[str, Any], caller: Caller) -> bool:
        """Whether ``caller`` is told of what happened to a model."""
        key = str(event.get("key", ""))
        uri = self._uri_of(key)
        if uri is None:
            return self._parts.policy.reads_all(caller)
        named = [s.info.named for s in self._parts.store.revisions(key)]
        uris = {uri, *(each.uri for each in named if each is not None)}
        decide = self._parts.policy.decide
        return all(decide(caller, "read", each).is_allowed for each in uris)

    def check(self, caller: Caller, verb: Verb, key: str | None) -> None:
        """The rules, for a model by its key or (None) for everything. What is not there is in no
        rule's ``uris``. Raises Forbidden."""
        self._parts.policy.check(caller, verb, self._uri_of(key or ""), key or "")

    def check_uri(self, caller: Caller, verb: Verb, uri: str) -> None:
        """Raises Forbidden, UriInvalid."""
        self._parts.policy.check(caller, verb, self._plain(uri))

    def explain(self, caller: Caller, verb: Verb, uri: str | None) -> dict[str, Any]:
        """What the rules say, and why. Raises UriInvalid."""
        plain = None if uri is None else self._plain(uri)
        return {"verb": verb, "uri": plain, **self._parts.policy.explain(caller, verb, plain)}

    def _plain(self, uri: str) -> str:
        return locate(Ask(uri=uri), self._parts.resolver)[0].uri

    def _uri_of(self, key: str) -> str | None:
        snapshots = self._parts.store.revisions(key)
        if snapshots:
            return snapshots[0].ref.uri
        flights = self._flights.values()
        return next((flight.ref.uri for flight in flights if flight.ref.key == key), None)
