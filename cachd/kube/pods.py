"""Which pods are alive on this node, as far as somebody can tell. Pure decisions, one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

Verdict = Literal["alive", "gone", "unknown"]


class PodProvider(Protocol):
    """Tells of pods by uid. ``unknown`` ends nothing: what can't be seen is not gone."""

    name: str

    async def start(self) -> None: ...

    async def close(self) -> None:
        """A second call does nothing."""
        ...

    async def look(self, uids: frozenset[str]) -> Mapping[str, Verdict]:
        """Of each of ``uids``, without waiting for anybody."""
        ...

    async def find(self, uid: str) -> Verdict:
        """Of one that was perhaps born a moment ago: worth one question."""
        ...

    async def pod_of(self, pid: int | None) -> str:
        """The uid of the pod that a process is in; "" if that can't be told."""
        ...

    def name_of(self, uid: str) -> str:
        """``namespace/name``, for people; "" if that isn't known."""
        ...

    def complaint(self) -> str:
        """Why pods can't be seen now, in a sentence; empty: they can."""
        ...

    def answer_age(self) -> float | None:
        """Seconds since somebody told of the pods; None: nobody ever did."""
        ...


class NoProvider:
    """Nobody tells: what is held for pods ends when nobody renews it."""

    name = "ttl"

    async def start(self) -> None:
        return

    async def close(self) -> None:
        return

    async def look(self, uids: frozenset[str]) -> Mapping[str, Verdict]:
        return dict.fromkeys(uids, "unknown")

    async def find(self, uid: str) -> Verdict:
        del uid
        return "unknown"

    async def pod_of(self, pid: int | None) -> str:
        del pid
        return ""

    def name_of(self, uid: str) -> str:
        del uid
        return ""

    def complaint(self) -> str:
        return ""

    def answer_age(self) -> float | None:
        return None


def decide(
    gone_since: Mapping[str, float], verdicts: Mapping[str, Verdict], *, now: float, grace: float
) -> tuple[dict[str, float], list[str]]:
    """Since when each pod has been seen gone without a break, and those for whom that was long
    enough. A pod that is not in ``verdicts`` is forgotten."""
    since: dict[str, float] = {}
    over = []
    for uid, verdict in verdicts.items():
        if verdict == "gone":
            since[uid] = gone_since.get(uid, now)
            if now - since[uid] >= grace:
                over.append(uid)
    return since, over
