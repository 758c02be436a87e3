"""Fixtures that every test may ask for, and what no test may leave behind."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import AsyncIterator

import hypothesis
import pytest

pytest_plugins = ("tests.servers.fixtures",)

# How long an example takes on a busy machine says nothing.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")
# A change is judged by the same examples each time; new ones are sought by whoever runs it by hand.
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("unhurried"), derandomize=True
)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

_PATIENCE = 10.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every coroutine test is watched for tasks that outlive it and its fixtures."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_stray_tasks")


@pytest.fixture
async def no_stray_tasks() -> AsyncIterator[None]:
    """Fails a test after which a task still runs. What is ending gets a moment."""
    before = asyncio.all_tasks()
    yield
    deadline = time.monotonic() + _PATIENCE
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if time.monotonic() > deadline:
            pytest.fail("tasks outlive the test: " + ", ".join(sorted(t.get_name() for t in left)))
        await asyncio.sleep(0.01)
