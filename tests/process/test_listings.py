"""Listing models takes memory, so that few are listed at the same time; a caller whose origins are
silent takes its own turns, and not those of others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import Daemon, eventually
from tests.process.origin import CountingOrigin
from tests.process.other_uid import as_other_uid
from tests.servers.require import needs_root

pytestmark = needs_root


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    made = CountingOrigin(bodies={"/mine.bin": b"mine", "/theirs.bin": b"theirs"})
    yield made
    made.close()


def test_a_silent_origin_costs_its_caller_a_turn(daemons, origin: CountingOrigin):
    daemon: Daemon = daemons(SOURCES_MAX_CONCURRENT_LISTINGS="4", FETCH_ORIGIN_PATIENCE="1").start()
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, ThreadPoolExecutor() as executor:
        silent.settimeout(60)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/m.bin"
        first = executor.submit(daemon.ask, uri, options={"max_attempts": 1})
        held, _ = silent.accept()
        # It takes no other connection, but is silent on this one.
        silent.close()
        with held:
            assert held.recv(1)
            # One quarter of four is taken, so that this one waits for its turn …
            mine = executor.submit(daemon.ask, f"{origin.url}/mine.bin")
            eventually(lambda: daemon.metric("cachd_listings_queued") == 1)
            # … and nobody else does.
            status, answer = as_other_uid(daemon, {"uri": f"{origin.url}/theirs.bin"})
            assert (status, answer["result"]) == (200, "miss")
            assert ("HEAD", "/mine.bin") not in origin.requests
        assert mine.result(60).status == 200
        assert first.result(60).status == 502
