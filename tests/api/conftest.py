from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from cachd.api.listeners import Listeners
from cachd.metrics import Metrics
from cachd.settings import Settings
from tests.api.memory import MemoryCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@pytest.fixture
def run() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="cachd-api-") as name:
        yield Path(name)


@pytest.fixture(autouse=True)
async def no_stray_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {
        task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()
    }
    if left:
        await asyncio.wait(left, timeout=10)
    assert not [task for task in left if not task.done()]


@dataclass
class Reply:
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        import json

        return json.loads(self.body)


@dataclass
class Rig:
    """The API on real sockets, over a small cache."""

    cache: MemoryCache
    metrics: Metrics
    pods: Path
    admin: Path
    sessions: dict[Path, aiohttp.ClientSession] = field(default_factory=dict)

    def session(self, path: Path | None = None) -> aiohttp.ClientSession:
        path = path or self.pods
        if path not in self.sessions:
            self.sessions[path] = aiohttp.ClientSession(
                "http://cachd",
                connector=aiohttp.UnixConnector(str(path)),
                auto_decompress=False,
            )
        return self.sessions[path]

    async def call(
        self, method: str, target: str, body: Any = None, *, admin: bool = False, **options: Any
    ) -> Reply:
        session = self.session(self.admin if admin else self.pods)
        if body is not None:
            options["json"] = body
        async with session.request(method, target, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def ask(self, uri: str, **body: Any) -> Reply:
        return await self.call("POST", "/v1/models", {"uri": uri, **body})


@pytest.fixture
async def rig(run: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    cache, metrics = MemoryCache(tmp_path / "models"), Metrics()
    settings = Settings.model_validate({"drain_timeout": 5})
    listeners = Listeners(cache, settings, metrics)
    made = Rig(cache, metrics, run / "cachd.sock", run / "admin.sock")
    try:
        await listeners.open_sockets(made.pods, made.admin)
        yield made
    finally:
        for session in made.sessions.values():
            await session.close()
        await listeners.close()
        await cache.close()


async def eventually(condition: Callable[[], Any], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not true in time"
        await asyncio.sleep(0.01)
