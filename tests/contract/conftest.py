from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

pytest.register_assert_rewrite(
    "tests.contract.answers",
    *(f"tests.contract.rows_{name}" for name in ("faults", "moving", "names", "passes", "shape")),
)

from tests.contract.adapter import Adapter  # noqa: E402
from tests.harness import Daemon, running  # noqa: E402

QUICK = {
    "FETCH_PART_SIZE": "8MiB",
    "FETCH_ATTEMPTS": "3",
    "FETCH_CONNECTIONS_PER_ORIGIN": "4",
    "FETCH_BACKOFF_BASE": "0.02",
    "FETCH_BACKOFF_MAX": "0.1",
    "FETCH_ORIGIN_PATIENCE": "3",
    "FRESHNESS_INTERVAL": "0",
    "FRESHNESS_SERVE_STALE": "false",
}


@pytest.fixture(scope="module")
def make_adapter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Adapter]]:
    """Adapters by name; they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Adapter:
            module = import_module(f"tests.contract.adapters.{name}")
            made: Adapter = module.make(request, tmp_path_factory.mktemp(name))
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def adapter(request: pytest.FixtureRequest, make_adapter: Callable[[str], Adapter]) -> Adapter:
    """The adapter that the test's module is named after."""
    return make_adapter(request.module.__name__.rpartition("test_")[2])


@pytest.fixture(scope="module")
def daemon(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all rows of a source."""
    folder = tmp_path_factory.mktemp("daemon")
    with running(folder, dict(adapter.environ), **{**QUICK, **adapter.settings}) as one:
        yield one


@pytest.fixture(autouse=True)
def quiet_gate(request: pytest.FixtureRequest) -> Iterator[None]:
    """No row meets another's faults."""
    yield
    if "adapter" in request.fixturenames:
        adapter: Adapter = request.getfixturevalue("adapter")
        if adapter.gate is not None:
            adapter.gate.clear()
