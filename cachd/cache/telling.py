"""What became of an ask, for whoever follows the cache's events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.errors import Draining

if TYPE_CHECKING:
    from cachd.cache.events import EventBus
    from cachd.cache.types import Answer, Caller
    from cachd.errors import CachdError
    from cachd.model import Ref
    from cachd.store.observe import OnEvicted


def tell_ready(events: EventBus, caller: Caller, answer: Answer) -> None:
    """It has its model. Hits are told of pods that are known alone: there are many."""
    if answer.result == "hit" and not caller.pod_name:
        return
    events.publish(
        "model_ready",
        key=answer.key,
        uri=answer.uri,
        revision=answer.revision,
        result=answer.result,
        bytes=answer.bytes,
        seconds=round(answer.timings.get("total", 0.0), 3),
        upstream=answer.upstream or answer.mirror,
        **_pod(caller),
    )


def tell_failed(events: EventBus, caller: Caller, ref: Ref, error: CachdError) -> None:
    """It has none: the code and what to do, nothing of what the origin said."""
    if not isinstance(error, Draining):
        events.publish(
            "model_failed",
            key=ref.key,
            uri=ref.uri,
            code=error.code,
            hint=error.hint,
            **_pod(caller),
        )


def evictions_teller(events: EventBus) -> OnEvicted:
    """What tells of each."""

    def tell(key: str, uri: str, reason: str, count: int, /) -> None:
        events.publish("evicted", key=key, uri=uri, reason=reason, freed=count)

    return tell


def _pod(caller: Caller) -> dict[str, str]:
    if not caller.pod_name:
        return {}
    return {
        "namespace": caller.namespace,
        "pod_name": caller.pod_name,
        "pod_uid": caller.pod_uid,
    }
