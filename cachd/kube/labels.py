"""Which chosen models this node has, as labels of the node, for affinities of pods.

Labels that begin with ``cachd.dev/model-`` are ours, and no others are ever touched: one that no
rule names any more is taken away, one that somebody changed is set right again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from cachd import globs
from cachd.errors import KubernetesFailed
from cachd.kube.client import segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cachd.kube.client import KubernetesClient
    from cachd.settings import NodeLabelRule

log = logging.getLogger("cachd.kube")

PREFIX = "cachd.dev/model-"

LOOK = 30.0
"""Seconds between looks at what is here, where nothing says that it changed …"""

RECONCILE = 600.0
"""… and at the node, where somebody may have changed its labels."""

RETRY = 15.0
"""Seconds after a call that failed."""

CHANGES = frozenset(
    {"fetch_started", "fetch_ended", "fetch_failed", "evicted", "removed", "imported"}
    | {"corrupt", "repaired", "damage_found"}
)
"""What happens in the cache that may change what is here."""

DEBOUNCE = 0.5
"""Seconds in which changes are taken together."""


class LabelMetrics(Protocol):
    def node_labelled(self, result: str) -> None:
        """``patched`` or ``failed``."""


def wanted(
    rules: Sequence[NodeLabelRule], ready: Iterable[str], fetching: Iterable[str]
) -> dict[str, str]:
    """The labels that the node should have, for the URIs that are here and on their way. Pure."""
    found: dict[str, str] = {}
    here, coming = sorted(set(ready)), sorted(set(fetching))
    for rule in rules:
        if any(globs.matches(rule.match, uri) for uri in here):
            found[rule.label] = "ready"
        elif any(globs.matches(rule.match, uri) for uri in coming):
            found.setdefault(rule.label, "fetching")
    return found


def changes(now: Mapping[str, Any], should: Mapping[str, str]) -> dict[str, str | None]:
    """What to patch of a node's labels, None for one that goes. Pure."""
    patch: dict[str, str | None] = {
        name: None for name in now if name.startswith(PREFIX) and name not in should
    }
    patch.update({name: value for name, value in should.items() if now.get(name) != value})
    return patch


class Labels:
    """Keeps the labels of one node right. ``look`` gives the URIs that are here and on their way;
    ``changed`` says that it is worth a look."""

    def __init__(
        self,
        client: KubernetesClient,
        node: str,
        rules: Sequence[NodeLabelRule],
        look: Callable[[], tuple[list[str], list[str]]],
        metrics: LabelMetrics,
    ) -> None:
        self._client = client
        self._path = f"/api/v1/nodes/{segment(node)}"
        self._rules = rules
        self._look = look
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._set: dict[str, str] | None = None

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        is_failing = False
        while True:
            patience = LOOK
            try:
                should = await self._should()
                if should != self._set or loop.time() >= due:
                    await self._reconcile(should)
                    due = loop.time() + RECONCILE
                is_failing = False
            except KubernetesFailed as error:
                self._metrics.node_labelled("failed")
                if not is_failing:
                    log.warning("the node's labels can't be set: %s", error.message)
                is_failing, self._set, patience = True, None, RETRY
            except Exception:
                log.exception("the node's labels can't be set")
            await self._wait(patience)

    async def _wait(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(DEBOUNCE)
        self._changed.clear()

    async def _should(self) -> dict[str, str]:
        ready, fetching = self._look()
        return await asyncio.to_thread(wanted, self._rules, ready, fetching)

    async def _reconcile(self, should: dict[str, str]) -> None:
        node = await self._client.call("GET", self._path)
        now = (node.get("metadata") or {}).get("labels") or {}
        patch = changes(now, should)
        if patch:
            await self._client.call(
                "PATCH",
                self._path,
                body={"metadata": {"labels": patch}},
                content_type="application/merge-patch+json",
            )
            self._metrics.node_labelled("patched")
            log.info("labels of the node: %s", patch)
        self._set = should
