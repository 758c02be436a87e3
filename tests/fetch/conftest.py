"""A mover with real workers, and a way to run one job."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from cachd.errors import CachdError, CredentialsInvalid
from cachd.fetch.job import FetchJob, FetchResult
from cachd.fetch.mover import Mover
from cachd.model import Auth, PartDone, Plan, PlannedFile, Validator
from cachd.settings import ArchiveSettings, EgressSettings, FetchSettings
from tests.origins.fault import FaultOrigin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MIB = 1024 * 1024
BLOCK = 8 * MIB

QUICK: dict[str, Any] = {
    "backoff_base": 0.01,
    "backoff_max": 0.05,
    "stall_window": 20,
    "connect_timeout": 5,
    "part_size": BLOCK,
    "connections": 8,
    "workers": 1,
}


class Rig:
    """Runs jobs on one mover, and keeps what they said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal: list[PartDone] = []
        self.retries: list[str] = []
        self.grown: list[int] = []
        self.refreshed = 0
        self.auths: list[Auth] = []
        self.movers: list[Mover] = []
        self._numbers = itertools.count(1)

    async def mover(self, **settings: Any) -> Mover:
        egress = settings.pop("egress", EgressSettings())
        mover = Mover(FetchSettings(**{**QUICK, **settings}), ArchiveSettings(), egress)
        await mover.start()
        self.movers.append(mover)
        return mover

    @property
    def tree(self) -> Path:
        return self.root / "tree"

    def job(self, plan: Plan, **more: Any) -> FetchJob:
        async def on_parts(parts: Any) -> None:
            self.journal.extend(parts)

        async def grow(count: int) -> None:
            self.grown.append(count)

        async def refresh() -> Auth:
            self.refreshed += 1
            if not self.auths:
                raise CredentialsInvalid("nobody has other credentials")
            return self.auths.pop(0)

        defaults: dict[str, Any] = {
            "id": f"job{next(self._numbers)}",
            "origin": "http://test",
            "plan": plan,
            "tree": self.tree,
            "on_parts": on_parts,
            "grow": grow,
            "refresh_auth": refresh,
            "on_retry": lambda cause, error: self.retries.append(cause),
        }
        return FetchJob(**{**defaults, **more})

    async def fetch(self, plan: Plan, *, mover: Mover | None = None, **more: Any) -> FetchResult:
        mover = mover or (self.movers[0] if self.movers else await self.mover())
        return await mover.fetch(self.job(plan, **more))

    async def fails(self, plan: Plan, **more: Any) -> CachdError:
        with pytest.raises(CachdError) as caught:
            await self.fetch(plan, **more)
        return caught.value

    def done(self) -> dict[str, list[PartDone]]:
        found: dict[str, list[PartDone]] = {}
        for part in self.journal:
            found.setdefault(part.path, []).append(part)
        return found

    def read(self, path: str) -> bytes:
        return (self.tree / path).read_bytes()


def planned(origin: FaultOrigin, path: str, data: bytes, **more: Any) -> PlannedFile:
    """Serve ``data`` and plan it, with the ETag that the origin has."""
    body = origin.put(f"/{path}", data, etag=more.pop("etag", ""))
    defaults: dict[str, Any] = {
        "path": path,
        "url": origin.url(f"/{path}"),
        "size": len(data),
        "validator": Validator(etag=body.etag),
    }
    return PlannedFile(**{**defaults, **more})


def plan_of(*files: PlannedFile, **more: Any) -> Plan:
    return Plan(revision="ab" * 8, files=files, **more)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    for mover in rig.movers:
        await mover.stop()


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin() as origin:
        yield origin
