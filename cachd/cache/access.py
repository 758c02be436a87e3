"""Whose pass a caller uses at the source, and who may have what is cached.

A *principal* is what the source would see: a caller's own credentials, the daemon's identity, or
nobody. What a principal was shown by the source is remembered for a while; credentials are kept
only as a keyed fingerprint whose key dies with the process.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from cachd.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.cache.types import Caller
    from cachd.model import Identity, Ref
    from cachd.settings import AccessSettings
    from cachd.store.types import SnapshotInfo

_FINGERPRINT_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """``fingerprint`` tells principals apart without holding a secret."""

    identity: Identity
    credentials: Credentials = field(default=Credentials(), repr=False)
    fingerprint: str


DAEMON = Principal(identity="daemon", fingerprint="daemon")
ANONYMOUS = Principal(identity="anonymous", fingerprint="anonymous")


def fingerprint_of(credentials: Credentials) -> str:
    """Tells credentials apart, and nothing more; its key dies with the process."""
    text = json.dumps(asdict(credentials), sort_keys=True).encode()
    return hashlib.blake2b(text, key=_FINGERPRINT_KEY, digest_size=16).hexdigest()


def principal_of(
    credentials: Credentials,
    caller: Caller,
    settings: AccessSettings,
    *,
    daemon_uid: int | None,
    is_default_origin: bool,
    is_lent: bool = False,
) -> Principal:
    """The pass that ``caller`` uses: its own, else the daemon's where that is lent (``is_lent``: by
    a rule), else none.

    At an endpoint that the caller chose, the daemon's identity is lent only to those who are the
    daemon's own user anyway: a signed request must not be lured to a stranger's server.
    """
    if credentials.anonymous or caller.role == "peer":
        # What another daemon has fetched here is what needs no pass; it brings nobody's.
        return ANONYMOUS
    if not credentials.is_empty:
        digest = fingerprint_of(credentials)
        return Principal(identity="caller", credentials=credentials, fingerprint=digest)
    if is_owner(caller, daemon_uid):
        return DAEMON
    if is_default_origin and (is_lent or may_use_daemon_identity(caller, settings, daemon_uid)):
        return DAEMON
    return ANONYMOUS


def is_owner(caller: Caller, daemon_uid: int | None) -> bool:
    """Administrators and callers of the daemon's own uid (None: that proves nothing)."""
    return caller.role == "admin" or (caller.uid is not None and caller.uid == daemon_uid)


def may_use_daemon_identity(
    caller: Caller, settings: AccessSettings, daemon_uid: int | None
) -> bool:
    """Owners, and whom the configuration names."""
    return (
        is_owner(caller, daemon_uid)
        or settings.share_identity
        or (caller.uid is not None and caller.uid in settings.identity_uids)
    )


class Proofs:
    """What the source showed to whom: (principal, ref) → (revisions, when). In memory, bounded."""

    def __init__(
        self, ttl: float, *, limit: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl = ttl
        self._limit = limit
        self._clock = clock
        self._seen: dict[tuple[str, Ref], tuple[tuple[str, ...], float]] = {}

    def record(self, principal: Principal, ref: Ref, *revisions: str) -> None:
        """Several, where an older one goes on being given: who may have the present state may have
        that."""
        self._seen.pop((principal.fingerprint, ref), None)
        self._seen[principal.fingerprint, ref] = (revisions, self._clock())
        while len(self._seen) > self._limit:
            del self._seen[next(iter(self._seen))]

    def revoke_fingerprint(self, fingerprint: str, ref: Ref) -> None:
        """The source said no after all."""
        self._seen.pop((fingerprint, ref), None)

    def holds(self, principal: Principal, ref: Ref, revision: str) -> bool:
        """Whether the source showed this revision to this principal within the time-to-live."""
        seen = self._seen.get((principal.fingerprint, ref))
        return seen is not None and revision in seen[0] and self._clock() - seen[1] < self._ttl

    def ever_held(self, principal: Principal, ref: Ref, revision: str) -> bool:
        """The same without the time limit: enough while the source can't be asked."""
        seen = self._seen.get((principal.fingerprint, ref))
        return seen is not None and revision in seen[0]

    def ever_held_by_daemon(self, ref: Ref, revision: str) -> bool:
        """Whether the source showed this revision to the daemon's own identity."""
        return self.ever_held(DAEMON, ref, revision)


def is_open(
    info: SnapshotInfo,
    principal: Principal,
    settings: AccessSettings,
    *,
    has_open_hits: bool = False,
) -> bool:
    """Whether ``principal`` may have the snapshot without the source being asked; ``has_open_hits``
    by a rule.

    A caller that brings credentials is asked for at the source even if the content is public: the
    same URL may show another tenant something else.
    """
    if settings.open_hits or has_open_hits:
        return True
    return not info.is_credentialed and principal.identity != "caller"
