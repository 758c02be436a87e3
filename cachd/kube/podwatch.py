"""The pods of this node, as the API server tells: a list, then a watch, then a list again.

A pod is gone when it was deleted, or when all its containers have ended for good (phase Succeeded
or Failed). One that no list has shown is gone only if a list was taken after somebody asked about
it: a watch that hangs, or a server that is away, ends nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from cachd.errors import KubernetesFailed

if TYPE_CHECKING:
    from collections.abc import Callable, KeysView, Mapping

    from cachd.kube.client import KubernetesClient
    from cachd.kube.pods import Verdict

log = logging.getLogger("cachd.pods")

_PATH = "/api/v1/pods"
_PAGE = 500
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0
"""Seconds between tries."""
_LIST_INTERVAL = 2.0
"""Least seconds between lists that questions make: whoever invents uids costs no more."""
_SHORTEST_WATCH = 1.0
"""Seconds below which the end of a watch counts as a failure."""
_PATIENCE = 10.0
"""Seconds that a question waits for its list."""
_MIRROR = "kubernetes.io/config.mirror"
_random = random.SystemRandom()


def uids_of(pod: Mapping[str, Any]) -> frozenset[str]:
    """By which the pod is known on its node. A static pod has another uid there (the hash of its
    manifest) than its mirror at the API server. Pure."""
    metadata = pod.get("metadata")
    if not isinstance(metadata, dict):
        return frozenset()
    annotations = metadata.get("annotations")
    mirror = annotations.get(_MIRROR) if isinstance(annotations, dict) else None
    return frozenset(uid for uid in (metadata.get("uid"), mirror) if isinstance(uid, str) and uid)


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether none of its containers runs or ever will. Pure."""
    status = pod.get("status")
    return isinstance(status, dict) and status.get("phase") in ("Succeeded", "Failed")


def _name_of(pod: Mapping[str, Any]) -> str:
    metadata = pod["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"


class PodTable:
    """Who is alive, by what was told. Pure."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        """Of those who are alive, ``namespace/name``."""
        self.ended: set[str] = set()
        """Of those that somebody asks about."""
        self._asked: dict[str, float] = {}
        self._listed = float("-inf")

    def replace(self, pods: list[dict[str, Any]], began: float) -> None:
        """A whole list that was begun at ``began``."""
        living = [pod for pod in pods if not is_over(pod)]
        self.names = {uid: _name_of(pod) for pod in living for uid in uids_of(pod)}
        self.ended -= self.alive
        self._listed = began

    def apply(self, kind: str, pod: Mapping[str, Any]) -> None:
        """One event of a watch."""
        uids = uids_of(pod)
        if kind == "DELETED" or is_over(pod):
            for uid in uids:
                self.names.pop(uid, None)
            self.ended |= uids & self._asked.keys()
        elif kind in ("ADDED", "MODIFIED"):
            self.names.update(dict.fromkeys(uids, _name_of(pod)))

    @property
    def alive(self) -> KeysView[str]:
        return self.names.keys()

    def look(self, uids: frozenset[str], now: float) -> dict[str, Verdict]:
        """Of each of ``uids``; what isn't among them any more is forgotten."""
        self._asked = {uid: self._asked.get(uid, now) for uid in uids}
        self.ended &= uids
        return {uid: self._verdict(uid) for uid in uids}

    def _verdict(self, uid: str) -> Verdict:
        if uid in self.alive:
            return "alive"
        if uid in self.ended or self._asked[uid] < self._listed:
            return "gone"
        return "unknown"


class PodWatch:
    """The provider ``kubernetes``."""

    name = "kubernetes"

    def __init__(
        self,
        client: KubernetesClient,
        node: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._table = PodTable()
        self._problem = "the API server has not answered yet"
        self._heard: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._listing = asyncio.Lock()
        self._listed_for_somebody = float("-inf")
        self._began = float("-inf")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="cachd-pod-watch")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # --- answers ------------------------------------------------------------------------------

    async def look(self, uids: frozenset[str]) -> Mapping[str, Verdict]:
        verdicts = self._table.look(uids, self._clock())
        if "unknown" in verdicts.values() and not self._problem:
            await self._list_again()
            verdicts = self._table.look(uids, self._clock())
        return verdicts

    async def find(self, uid: str) -> Verdict:
        asked = self._clock()
        if uid in self._table.alive:
            return "alive"
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._began < asked and uid not in self._table.alive:
                    if not await self._list_again():
                        break
                    await asyncio.sleep(_FIRST_DELAY / 2)
        except TimeoutError:
            pass
        if uid in self._table.alive:
            return "alive"
        return "gone" if self._began >= asked else "unknown"

    async def pod_of(self, pid: int | None) -> str:
        del pid
        return ""

    def name_of(self, uid: str) -> str:
        return self._table.names.get(uid, "")

    def complaint(self) -> str:
        if not self._problem:
            return ""
        return (
            f"the pods of the node {self._node} can't be seen, so nothing that is held for them "
            f"ends: {self._problem}"
        )

    def answer_age(self) -> float | None:
        return None if self._heard is None else max(0.0, self._clock() - self._heard)

    async def _list_again(self) -> bool:
        """A list because of a question, unless one was made a moment ago; False if it failed."""
        if self._clock() - self._listed_for_somebody < _LIST_INTERVAL:
            return True
        self._listed_for_somebody = self._clock()
        try:
            await self._list("")
        except KubernetesFailed as error:
            log.info("the pods can't be listed: %s", error.message)
            return False
        return True

    # --- following ----------------------------------------------------------------------------

    async def _run(self) -> None:
        delay, since = _FIRST_DELAY, ""
        while True:
            try:
                since = await self._list(since)
                self._tell("")
                # The server ends each watch after a while, which is no failure.
                while True:
                    began = self._clock()
                    since = await self._follow(since)
                    if self._clock() - began < _SHORTEST_WATCH:
                        break
                    delay = _FIRST_DELAY
            except KubernetesFailed as error:
                if error.detail.get("status") is not None:
                    # Perhaps what it was to go on from is too old (410), or not yet there.
                    since = ""
                self._tell(error.message)
            except Exception as error:
                log.exception("the watch of the pods failed; it is tried again")
                self._tell(type(error).__name__)
            await asyncio.sleep(delay * _random.uniform(0.5, 1.0))
            delay = min(2 * delay, _LAST_DELAY)

    def _tell(self, problem: str) -> None:
        if problem and not self._problem:
            log.warning("the pods of %s can't be seen: %s", self._node, problem)
        elif self._problem and not problem:
            log.info("the pods of %s are seen: %d", self._node, len(self._table.alive))
        self._problem = problem

    def _query(self, **more: str) -> dict[str, str]:
        return {"fieldSelector": f"spec.nodeName={self._node}", **more}

    async def _list(self, since: str) -> str:
        """Take the whole list up; the version to go on from. ``since``: it may come from the
        server's cache, if it is no older than that. Raises KubernetesFailed."""
        async with self._listing:
            began = self._clock()
            query = self._query(limit=str(_PAGE))
            if since:
                query |= {"resourceVersion": since, "resourceVersionMatch": "NotOlderThan"}
            pods: list[dict[str, Any]] = []
            while True:
                page = await self._client.call("GET", _PATH, query=query)
                items, metadata = page.get("items"), page.get("metadata")
                if not isinstance(metadata, dict) or not isinstance(items, list | None):
                    raise KubernetesFailed("the API server answers a list of pods with none")
                pods += [pod for pod in items or () if isinstance(pod, dict)]
                onward = metadata.get("continue")
                if not onward:
                    break
                query = self._query(limit=str(_PAGE)) | {"continue": str(onward)}
            self._table.replace(pods, began)
            self._began = began
            self._heard = self._clock()
            return str(metadata.get("resourceVersion") or "")

    async def _follow(self, version: str) -> str:
        """One watch; the version that the next goes on from. Raises KubernetesFailed."""
        query = self._query(resourceVersion=version)
        async for event in self._client.watch(_PATH, query=query):
            self._heard = self._clock()
            pod = event["object"]
            metadata = pod.get("metadata")
            if isinstance(metadata, dict) and metadata.get("resourceVersion"):
                version = str(metadata["resourceVersion"])
            self._table.apply(str(event.get("type")), pod)
        self._heard = self._clock()
        return version
