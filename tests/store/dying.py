"""A process that fills a store and kills itself at a named step: ``python -m tests.store.dying ROOT
SCENARIO STEP [COUNT]`` (at the COUNT-th time). Prints "survived" if the step never came."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from cachd.cache.events import EventBus
from cachd.cache.updating import Updates
from cachd.metrics import Metrics
from cachd.settings import LeaseSettings, StoreSettings
from cachd.store.store import Store
from cachd.store.updates import UpdateRecord
from cachd.store.viewmaking import ViewSpec
from tests.disk import flip
from tests.store.models import Model, number, publish, sized

POD = "0f8b3c2a-1111-4222-8333-944444444444"
SHARED = sized(9_000_000, 5)
OLD = Model("s3://bucket/m", {"w": SHARED, "config": b"old", "d/e": b""}, number(1))
NEW = Model("s3://bucket/m", {"w": SHARED, "config": b"new", "x": sized(3_000_000, 6)}, number(2))


async def at_once(_count: int) -> bool:
    return True


async def run(root: Path, scenario: str, step: str, count: int) -> None:
    left = count

    def on_step(name: str) -> None:
        nonlocal left
        if armed and name == step:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    armed = False
    store = Store(
        root,
        StoreSettings(quota="1GiB", free_floor="0", watch_interval=3600),
        LeaseSettings(),
        on_step=on_step,
    )
    await store.open()
    if scenario == "first":
        armed = True
        await publish(store, OLD)
    else:
        await publish(store, OLD)
        if scenario == "update":
            armed = True
            await publish(store, NEW)
        elif scenario == "held":
            armed = True
            await publish(store, NEW, is_held=True)
        elif scenario in ("promotion", "going back"):
            is_back = scenario == "going back"
            await publish(store, NEW, is_held=not is_back)
            if not is_back:
                await store.updates.put(OLD.key, UpdateRecord(waiting=NEW.revision, was_here=True))
            armed = True
            target = OLD if is_back else NEW
            updates = Updates(store, (), Metrics(), EventBus())
            await updates.promote(OLD.key, target.revision, "a test")
        elif scenario in ("view", "view copy", "view removal"):
            spec = ViewSpec(
                pod=POD,
                name="",
                mode="copy" if scenario == "view copy" else "link",
                until="pod",
                ttl=60,
            )
            armed = scenario != "view removal"
            await store.views.make(OLD.ref, OLD.revision, spec)
            armed = True
            await store.views.remove(POD)
            await store._open.trash.wait(list(store._index.trash))
        elif scenario == "repair":
            await publish(store, NEW)
            flip(store.get(OLD.key, OLD.revision).tree / "w", 8_500_000)
            armed = True
            await store.checks.inspect(OLD.key, OLD.revision, pace=at_once)
            await publish(store, OLD)
        else:
            await publish(store, NEW)
            armed = True
            await store.remove(OLD.key)
    await store.close()
    print("survived")


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
