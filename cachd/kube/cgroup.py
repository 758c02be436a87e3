"""Pods by their cgroups: which one a process is in, and which still exist.

kubelet gives each pod a cgroup whose name is the last component with ``pod<uid>``: as it is
(driver cgroupfs: ``/kubepods/burstable/pod0f8b…``), or in a systemd slice with underscores for
dashes (``/kubepods.slice/…/kubepods-burstable-pod0f8b_….slice``); containers are below. Other roots
may stand before it (a node that is itself a container; ``/../..`` where the reader is in a cgroup
namespace of its own).
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cachd.kube.pods import Verdict

_UID = r"[0-9a-f]{8}(?:[_-][0-9a-f]{4}){3}[_-][0-9a-f]{12}|[0-9a-f]{32}"
"""A UUID, or the hash of a static pod's manifest."""
_POD = re.compile(rf"pod({_UID})|(?:[^/]*-)?pod({_UID})\.slice")
_DEPTH = 6
"""Levels below the hierarchy's root at which kubelet's pods are looked for."""
_INTERVAL = 2.0
"""Seconds for which a look is good."""


def pod_in(component: str) -> str:
    """The uid that a cgroup's name tells, or "". Pure."""
    found = _POD.fullmatch(component)
    return (found.group(1) or found.group(2)).replace("_", "-") if found else ""


def pod_of_cgroups(text: str) -> str:
    """The uid of the pod that ``/proc/<pid>/cgroup`` tells of, or "". Both versions: lines
    ``hierarchy:controllers:path``. Of several components the last counts: a node may itself be a
    pod's container. Pure."""
    for line in text.splitlines():
        _, _, path = line.partition(":")
        _, _, path = path.partition(":")
        for component in reversed(path.split("/")):
            uid = pod_in(component)
            if uid:
                return uid
    return ""


def pods_of_tree(root: Path) -> set[str]:
    """The uids of the pods whose cgroups lie below ``root``. Blocking."""
    found: set[str] = set()
    for hierarchy in _hierarchies(root):
        pending = [(hierarchy, 0)]
        while pending:
            directory, depth = pending.pop()
            for entry in _directories(directory):
                uid = pod_in(entry.name)
                if uid:
                    found.add(uid)
                elif depth < _DEPTH and ".scope" not in entry.name:
                    pending.append((Path(entry.path), depth + 1))
    return found


def _hierarchies(root: Path) -> list[Path]:
    """Version 2 has one; of version 1 one that every kubelet uses is enough."""
    for name in ("cpu,cpuacct", "cpu", "memory", "pids", "systemd"):
        if (root / name).is_dir() and not (root / "cgroup.controllers").exists():
            return [root / name]
    return [root]


def _directories(directory: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(directory) as entries:
        yield from [entry for entry in entries if entry.is_dir(follow_symlinks=False)]


def pods_of_processes(proc: Path) -> set[str]:
    """The uids of the pods that processes below ``proc`` are in. Blocking."""
    found: set[str] = set()
    for entry in _directories(proc):
        if entry.name.isdigit():
            with suppress(OSError):
                found.add(pod_of_cgroups(Path(entry.path, "cgroup").read_text(errors="replace")))
    return found - {""}


class PodCgroups:
    """The provider ``cgroup``. It sees pods in the host's pid namespace, or where the host's
    cgroups are mounted; its own pod alone is no sign that it does."""

    name = "cgroup"

    def __init__(
        self,
        root: Path,
        *,
        proc: Path = Path("/proc"),
        own_pod: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._proc = proc
        self._own = own_pod
        self._clock = clock
        self._alive: set[str] = set()
        self._sees_all = False
        self._known: set[str] = set()
        self._heard: float | None = None
        self._has_blind_peer = False
        self._looking = asyncio.Lock()

    async def start(self) -> None:
        await self._refresh()

    async def close(self) -> None:
        return

    async def look(self, uids: frozenset[str]) -> Mapping[str, Verdict]:
        await self._refresh()
        self._known &= uids | self._alive
        return {uid: self._verdict(uid) for uid in uids}

    async def find(self, uid: str) -> Verdict:
        if uid not in self._alive:
            await self._refresh(is_forced=True)
        return self._verdict(uid)

    def _verdict(self, uid: str) -> Verdict:
        if uid in self._alive:
            return "alive"
        return "gone" if self._sees_all or uid in self._known else "unknown"

    async def _refresh(self, *, is_forced: bool = False) -> None:
        async with self._looking:
            age = self.answer_age()
            if age is not None and age < (_INTERVAL / 4 if is_forced else _INTERVAL):
                return
            self._alive, self._sees_all = await asyncio.to_thread(self._look)
            self._known |= self._alive
            if self._alive:
                self._heard = self._clock()

    def _look(self) -> tuple[set[str], bool]:
        trees, processes = pods_of_tree(self._root), pods_of_processes(self._proc)
        alive = trees | processes
        sees_all = bool(alive - {self._own}) or _is_host(self._proc)
        return alive, sees_all

    async def pod_of(self, pid: int | None) -> str:
        if not pid:
            # The peer's process is in a pid namespace that isn't below ours.
            self._has_blind_peer = self._has_blind_peer or pid == 0
            return ""
        path = self._proc / str(pid) / "cgroup"
        try:
            text = await asyncio.to_thread(path.read_text, errors="replace")
        except OSError:
            return ""
        return pod_of_cgroups(text)

    def name_of(self, uid: str) -> str:
        del uid
        return ""

    def complaint(self) -> str:
        if self._sees_all:
            return ""
        why = (
            "callers have pid 0: the daemon is not in the host's pid namespace (hostPID: true)"
            if self._has_blind_peer
            else f"neither {self._proc} nor {self._root} shows any"
        )
        return f"the cgroups of pods can't be seen, so nothing that is held for them ends: {why}"

    def answer_age(self) -> float | None:
        return None if self._heard is None else max(0.0, self._clock() - self._heard)


def _is_host(proc: Path) -> bool:
    """Whether ``proc`` shows the host's processes: only there does the kernel's own thread have
    the number 2."""
    with suppress(OSError, ValueError):
        return (proc / "2" / "comm").read_text().strip() == "kthreadd"
    return False
