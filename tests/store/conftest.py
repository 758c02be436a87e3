"""Stores in temporary roots, and a guard against blocking calls on the event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBusterFunction, blockbuster_ctx

from cachd.settings import LeaseSettings, StoreSettings
from cachd.store.store import Store
from tests.store.models import WEIGHTS, ManualClock, Model, number


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """A blocking system call of the store on the event loop fails the test."""
    with blockbuster_ctx("cachd.store") as guard:
        for name in ("fsync", "open", "ftruncate"):
            guard.functions[f"os.{name}"] = BlockBusterFunction(
                os, name, scanned_modules=["cachd.store"]
            )
            guard.functions[f"os.{name}"].activate()
        yield


MakeStore = Callable[..., Awaitable[Store]]


@pytest.fixture
def model() -> Model:
    return Model(
        "s3://bucket/llama",
        {"model.safetensors": WEIGHTS, "sub/config.json": b"{}", "empty": b""},
        number(1),
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def make_store(tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Opens stores (in ``tmp_path/root`` unless told otherwise) and closes them in the end."""
    stores: list[Store] = []

    async def make(root: Path | None = None, *, clock: Any = None, **settings: Any) -> Store:
        steps = settings.pop("on_step", None)
        leases = settings.pop("leases", LeaseSettings())
        metrics = settings.pop("metrics", None)
        chosen = {"quota": "1GiB", "free_floor": "0", "watch_interval": 3600.0, **settings}
        extra = {"on_step": steps} if steps else {}
        store = Store(
            root or tmp_path / "root",
            StoreSettings(**chosen),
            leases,
            metrics=metrics,
            clock=clock,
            **extra,
        )
        await store.open()
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()
