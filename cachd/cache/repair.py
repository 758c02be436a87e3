"""A damaged snapshot is fetched again, as far as it is bad, without anybody asking.

It is an ordinary flight of the same revision: the store gives it the good blocks, the source the
rest, under the validators that it was fetched with; who asks meanwhile boards it. Nobody's pass is
used for that but the daemon's own, and only where the snapshot was had with it; what needed a
caller's pass waits, corrupt, for a caller that the source says yes to.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cachd.cache.access import ANONYMOUS, DAEMON
from cachd.cache.anywhere import plan_unseen
from cachd.cache.participant import FlightRefused, Participant
from cachd.cache.resolve import locate, unseen
from cachd.cache.types import Ask
from cachd.credentials import SourceOptions
from cachd.errors import CachdError
from cachd.schemes import REGISTRIES, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.cache.asking import Asking
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.model import Ref
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.cache")

_PATIENCE = 3600.0


async def repair(parts: Parts, asking: Asking, key: str, revision: str) -> str:
    """Repair a damaged snapshot; why that couldn't be, in a sentence, or ""."""
    snapshot = parts.store.get(key, revision)
    if snapshot is None or not snapshot.damage:
        return ""
    reason = await _try(parts, asking, snapshot)
    if reason:
        log.error(
            "%s revision %s stays corrupt, and is given to nobody: %s",
            key,
            revision,
            reason,
            extra={"key": key},
        )
        parts.events.publish("corrupt", key=key, revision=revision, reason=reason)
    else:
        parts.events.publish("repaired", key=key, revision=revision)
    return reason


async def _try(parts: Parts, asking: Asking, snapshot: StoredSnapshot) -> str:
    if parts.settings.offline:
        return "the daemon is offline"
    if snapshot.info.is_credentialed and snapshot.info.identity != "daemon":
        return "it was fetched with a caller's credentials: it is repaired when one asks again"
    asked = _ask_again(parts, snapshot)
    if asked is None:
        return "it was fetched with options of a caller: it is repaired when one asks again"
    try:
        plan = await plan_unseen(asked, parts, parts.settings.fetch.origin_patience)
        if plan.revision != snapshot.revision:
            return "its source has another revision by now"
        asked = asking.at(asked, plan)
        flight, _ = await asking.board(plan, asked)
        participant = Participant(
            request=asked.request,
            fingerprint=asked.prover.fingerprint,
            auth=plan.auth,
            is_credentialed=plan.is_credentialed,
            priority="scrub",
            mirror=plan.mirror,
            named_as=asked.led.identity if asked.led else "anonymous",
        )
        flight.join(participant)
        try:
            while await flight.wait(participant, _PATIENCE) is None:
                pass
        finally:
            flight.leave(participant)
    except FlightRefused as error:
        return f"{error.error.code}: {error.error.message}"
    except CachdError as error:
        return f"{error.code}: {error.message}"
    now = parts.store.get(snapshot.key, snapshot.revision)
    return "it was damaged again meanwhile" if now is not None and now.damage else ""


def _ask_again(parts: Parts, snapshot: StoredSnapshot) -> Asked | None:
    """The ask that names the snapshot's ref; None where the ref alone doesn't tell enough."""
    ref = snapshot.ref
    principal = DAEMON if snapshot.info.is_credentialed else ANONYMOUS
    for options in _options(ref):
        ask = Ask(uri=ref.uri, allow=ref.allow, ignore=ref.ignore, options=options)
        try:
            again, location = locate(ask, parts.resolver)
        except CachdError:
            continue
        if again == ref and again.key == ref.key:
            return unseen(ask, ref, location, principal)
    return None


def _options(ref: Ref) -> Iterator[SourceOptions]:
    yield SourceOptions()
    if scheme_of(ref.uri) in REGISTRIES:
        yield SourceOptions(registry=ref.origin.partition("+")[2].partition(";")[0])
        return
    endpoint = ref.origin.rpartition("+")[2].partition("#")[0]
    yield SourceOptions(endpoint=endpoint)
    yield SourceOptions(endpoint=endpoint, addressing="virtual")
