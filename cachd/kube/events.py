"""What happens to models, as events on the pod that asked, or on the node.

Nobody waits for the API server: what can't be told in time is dropped, oldest first. The same thing
again counts up the event that is there, as kubectl's users know it. Fields: Kubernetes API
reference, Event v1 (core); names that kubelet uses for nodes: the node's name is its uid.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from cachd.errors import KubernetesFailed
from cachd.kube.client import segment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from cachd.kube.client import KubernetesClient

log = logging.getLogger("cachd.kube")

COMPONENT = "cachd"

PRESSURE = frozenset({"quota", "watermark", "volume"})
"""Reasons of evictions that somebody may wonder about."""

REPEAT = 600.0
"""Seconds within which the same thing again counts up its event …"""

UPDATE = 10.0
"""… at most this often."""

BURST = 25
REFILL = 0.2
"""New events at once, and a second afterwards: as many as a busy node has reasons for."""

_REMEMBERED = 500
_MESSAGE_MOST = 1000
_NODE_NAMESPACE = "default"


class EventMetrics(Protocol):
    def kubernetes_event(self, result: str) -> None:
        """``created``, ``updated``, ``dropped`` (too many) or ``failed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell. ``about``: what makes it the same thing again."""

    reason: str
    message: str
    about: str
    is_warning: bool = False
    namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""


@dataclass(slots=True)
class _Sent:
    name: str
    sent: float
    count: int = 1


@dataclass(slots=True)
class Bucket:
    """``BURST`` at once, then ``REFILL`` a second. Pure but for the clock that is passed in."""

    tokens: float = BURST
    seen: float = field(default=0.0)

    def take(self, now: float) -> bool:
        self.tokens = min(BURST, self.tokens + (now - self.seen) * REFILL)
        self.seen = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def notice_of(item: Mapping[str, Any]) -> Notice | None:
    """What ``item`` of the cache's events is worth telling. Pure.

    A failure is told by its code and hint alone; a URI has no credentials in it.
    """
    kind, uri = item.get("event"), str(item.get("uri") or item.get("key") or "")
    if kind == "model_ready":
        if item.get("result") != "miss" and not item.get("pod_name"):
            return None
        return _of_pod(
            item,
            reason="ModelReady",
            message=f"{uri} is here: {_arrival(item)}",
            about=f"{item.get('key')} {item.get('revision')} {item.get('result')}",
        )
    if kind == "model_failed":
        hint = f"; {item['hint']}" if item.get("hint") else ""
        return _of_pod(
            item,
            reason="ModelFailed",
            message=f"{uri} can't be had: {item.get('code')}{hint}",
            about=f"{item.get('key')} {item.get('code')}",
            is_warning=True,
        )
    if kind == "update_ready":
        return Notice(
            reason="ModelUpdateReady",
            message=f"{uri}: revision {item.get('revision')} is here, and not given yet",
            about=f"{item.get('key')} {item.get('revision')}",
        )
    if kind == "promoted":
        previous = f", and {item['previous']} no more" if item.get("previous") else ""
        return Notice(
            reason="ModelPromoted",
            message=f"{uri}: revision {item.get('revision')} is given from now on "
            f"({item.get('by')}){previous}",
            about=f"{item.get('key')} {item.get('revision')}",
        )
    if kind == "evicted" and item.get("reason") in PRESSURE:
        return Notice(
            reason="ModelEvicted",
            message=f"{uri} was evicted ({item['reason']}): {item.get('freed')} bytes",
            about=f"{item.get('key')} {item['reason']}",
        )
    return None


def _of_pod(
    item: Mapping[str, Any], *, reason: str, message: str, about: str, is_warning: bool = False
) -> Notice:
    return Notice(
        reason=reason,
        message=message,
        about=about,
        is_warning=is_warning,
        namespace=str(item.get("namespace") or ""),
        pod_name=str(item.get("pod_name") or ""),
        pod_uid=str(item.get("pod_uid") or ""),
    )


def _arrival(item: Mapping[str, Any]) -> str:
    if item.get("result") != "miss":
        return f"it was cached ({item.get('result')})"
    came = f"{item.get('bytes')} bytes in {float(item.get('seconds') or 0):.1f} s"
    return came + (f", from {item['upstream']}" if item.get("upstream") else "")


class Reporter:
    """Tells the API server of ``node``'s models."""

    def __init__(
        self,
        client: KubernetesClient,
        node: str,
        metrics: EventMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._node = node
        self._metrics = metrics
        self._clock = clock
        self._bucket = Bucket(seen=clock())
        self._sent: OrderedDict[tuple[str, ...], _Sent] = OrderedDict()
        self._is_failing = False

    async def run(self, items: AsyncIterator[Mapping[str, Any]]) -> None:
        """Until it is cancelled. ``items`` come from a queue that drops the oldest."""
        async for item in items:
            notice = notice_of(item)
            if notice is not None:
                await self.tell(notice)

    async def tell(self, notice: Notice) -> None:
        """Never raises: an event that can't be told is lost."""
        key = (notice.namespace, notice.pod_name, notice.pod_uid, notice.reason, notice.about)
        now = self._clock()
        sent = self._sent.get(key)
        try:
            if sent is not None and now - sent.sent < REPEAT:
                await self._again(notice, sent, now)
            elif self._bucket.take(now):
                await self._create(notice, key, now)
            else:
                self._metrics.kubernetes_event("dropped")
        except KubernetesFailed as error:
            self._metrics.kubernetes_event("failed")
            self._sent.pop(key, None)
            if not self._is_failing:
                log.warning("events can't be told: %s", error.message)
            self._is_failing = True
        else:
            self._is_failing = False

    async def _create(self, notice: Notice, key: tuple[str, ...], now: float) -> None:
        body = event_body(notice, self._node, datetime.now(UTC))
        namespace = body["metadata"]["namespace"]
        made = await self._client.call("POST", _path(namespace), body=body)
        self._metrics.kubernetes_event("created")
        name = str((made.get("metadata") or {}).get("name") or "")
        if name:
            self._sent[key] = _Sent(name, now)
            self._sent.move_to_end(key)
            while len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)

    async def _again(self, notice: Notice, sent: _Sent, now: float) -> None:
        sent.count += 1
        if now - sent.sent < UPDATE:
            return
        body = {
            "count": sent.count,
            "lastTimestamp": _timestamp(datetime.now(UTC)),
            "message": notice.message[:_MESSAGE_MOST],
        }
        namespace = notice.namespace if notice.pod_name else _NODE_NAMESPACE
        await self._client.call(
            "PATCH",
            f"{_path(namespace)}/{segment(sent.name)}",
            body=body,
            content_type="application/merge-patch+json",
        )
        sent.sent = now
        self._metrics.kubernetes_event("updated")


def event_body(notice: Notice, node: str, moment: datetime) -> dict[str, Any]:
    """The Event as the API server takes it. Pure."""
    if notice.pod_name:
        namespace = notice.namespace
        involved = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": namespace,
            "name": notice.pod_name,
            "uid": notice.pod_uid,
        }
    else:
        namespace = _NODE_NAMESPACE
        involved = {"kind": "Node", "apiVersion": "v1", "name": node, "uid": node}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{COMPONENT}-", "namespace": namespace},
        "involvedObject": involved,
        "reason": notice.reason,
        "message": notice.message[:_MESSAGE_MOST],
        "type": "Warning" if notice.is_warning else "Normal",
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": _timestamp(moment),
        "lastTimestamp": _timestamp(moment),
        "count": 1,
    }


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{segment(namespace)}/events"


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
