"""Pods: who may speak for one, and the end of what is held for those that are gone."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from cachd.errors import CachdError, DiskError, Forbidden, StoreError
from cachd.kube.pods import decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.cache.types import Ask, Caller
    from cachd.kube.pods import PodProvider
    from cachd.settings import LeaseSettings
    from cachd.store.store import Store
    from cachd.store.types import StoredView

log = logging.getLogger("cachd.pods")

_INTERVAL = 1.0
_UNPROVEN_HINT = (
    "mount a service-account token for the audience of kubernetes.audience and name it in "
    "CACHD_TOKEN_FILE, so that the pod is known"
)


class Pods:
    """``start`` before, ``close`` after; looks at the pods that something is held for."""

    def __init__(
        self,
        store: Store,
        provider: PodProvider,
        settings: LeaseSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._provider = provider
        self._settings = settings
        self._gone_since: dict[str, float] = {}
        self._clock = clock
        self._started = clock()
        self._task: asyncio.Task[None] | None = None

    @property
    def provider(self) -> PodProvider:
        return self._provider

    @property
    def can_tell(self) -> bool:
        """Whether somebody tells when a pod is gone."""
        return self._provider.name != "ttl"

    def start(self) -> None:
        self._started = self._clock()
        if self.can_tell:
            self._task = asyncio.create_task(self._run(), name="cachd-pods")

    async def close(self) -> None:
        """A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self.round()
            except CachdError as error:
                log.warning("what pods held couldn't be ended; it is tried again: %s", error)
            except Exception:
                log.exception("looking at the pods failed; it is tried again")

    async def round(self) -> None:
        """End what is held for pods that have been gone for long enough."""
        held = self._store.pods()
        verdicts = dict(await self._provider.look(frozenset(held)))
        now = self._clock()
        if now - self._started < self._settings.reboot_grace:
            # A reboot ends every pod for a while, and kubelet brings the same ones back.
            boot = self._store.boot_id
            verdicts = {
                uid: verdict
                for uid, verdict in verdicts.items()
                if verdict != "gone" or held.get(uid) in (boot, "")
            }
        self._gone_since, over = decide(
            self._gone_since, verdicts, now=now, grace=self._settings.pod_grace
        )
        for uid in over:
            log.info("the pod %s is gone: its leases and views end", uid)
            try:
                await self._store.end_pod(uid)
            except (DiskError, StoreError) as error:
                # A pod may have closed its own directory: the others' end does not wait for that.
                log.warning("what %s held couldn't be ended; it is tried again: %s", uid, error)

    def complaints(self) -> list[str]:
        """What is wrong with the provider, for an operator."""
        return [text for text in (self._provider.complaint(),) if text]

    def usage(self) -> dict[str, float | None]:
        """Numbers for metrics."""
        if not self.can_tell:
            return {}
        return {
            "pods_visible": float(not self._provider.complaint()),
            "pods_answer_age": self._provider.answer_age(),
        }

    async def views(self, caller: Caller) -> list[StoredView]:
        """All of them for administrators; else those of the pod that the caller is proven to be."""
        own = caller.pod_uid or await self._provider.pod_of(caller.pid)
        return [
            view
            for view in self._store.views.all()
            if caller.role == "admin" or (own and view.pod == own)
        ]

    # --- claims -------------------------------------------------------------------------------

    async def check_ask(self, ask: Ask, caller: Caller) -> bool:
        """Whether the pod that the ask names is proven to be the caller; False also where it names
        none. Raises Forbidden."""
        claimed = {each.pod for each in (ask.lease, ask.view) if each is not None and each.pod}
        if len(claimed) > 1:
            raise Forbidden("the lease and the view are of different pods")
        return await self.check(claimed.pop(), caller) if claimed else False

    async def prove(self, uid: str, caller: Caller) -> None:
        """Raises Forbidden unless ``caller`` is proven to be the pod ``uid``, or nobody tells of
        pods at all."""
        if not await self.check(uid, caller) and self.can_tell:
            raise Forbidden(
                "a pod's views end before the pod only if it proves that it is that pod",
                hint=f"{_UNPROVEN_HINT}; or use the administrators' socket",
            )

    async def check(self, uid: str, caller: Caller) -> bool:
        """Whether ``caller`` is proven to be the pod ``uid`` (or may speak for everybody); False:
        nobody can tell. Raises Forbidden if it is another, or where a proof is wanted."""
        if caller.role == "admin":
            return True
        proven = caller.pod_uid or await self._provider.pod_of(caller.pid)
        if proven and proven != uid:
            raise Forbidden(
                "the pod that the request names is not the one that sends it",
                hint="POD_UID is the downward API's metadata.uid of the very pod",
            )
        if not proven and self._settings.require_pod_proof:
            raise Forbidden(
                "this daemon takes a pod's word for its uid only with a proof "
                "(leases.require_pod_proof)",
                hint=_UNPROVEN_HINT,
            )
        if not proven and await self._provider.find(uid) == "gone":
            raise Forbidden(
                f"no pod of this node has the uid {uid}",
                hint="POD_UID is the downward API's metadata.uid of the pod itself; see /readyz "
                "for what the daemon sees of the API server",
            )
        return bool(proven)
