"""Faults on the way: retried, waited for as told, gone on from what is there, never published."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.adapter import Adapter
from tests.contract.answers import given, published, refused
from tests.contract.rows_shape import BIG, MIB
from tests.harness import Daemon, Reply, eventually
from tests.origins.exchange import Seen
from tests.origins.gate import anything

PATH = "m/model.bin"
SERVER_ERROR = (500, {}, b"")
BUSY_SECONDS = 1
CALLS = 8
"""Of one ask: what may be under way at the same time."""


class Faults:
    @pytest.mark.parametrize(("status", "what"), [(429, "data"), (503, "anything")])
    def test_a_busy_source_is_left_alone_for_as_long_as_it_says(
        self, adapter: Adapter, daemon: Daemon, status: int, what: str
    ) -> None:
        """It refuses all for a second: who came back sooner would run out of tries."""
        gate = adapter.the_gate()
        place = adapter.put({PATH: adapter.fresh_bytes(7000)})
        matches = anything if what == "anything" else adapter.is_data
        gate.clear()
        rule = gate.busy(status, BUSY_SECONDS, matches)
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        assert 1 <= rule.met <= CALLS

    @pytest.mark.parametrize("what", ["anything", "data"])
    def test_errors_of_the_server_are_tried_again(
        self, adapter: Adapter, daemon: Daemon, what: str
    ) -> None:
        gate = adapter.the_gate()
        place = adapter.put({PATH: adapter.fresh_bytes(7000)})
        matches = anything if what == "anything" else adapter.is_data
        gate.clear()
        rule = gate.add(matches, times=2, refuse=SERVER_ERROR)
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        assert rule.met == 2

    def test_errors_that_last_are_told(self, adapter: Adapter, daemon: Daemon) -> None:
        gate = adapter.the_gate()
        place = adapter.put({PATH: adapter.fresh_bytes(7000)})
        gate.clear()
        gate.add(refuse=SERVER_ERROR)
        answer = refused(place.ask(daemon, PATH), "origin_failed")
        assert "500" in answer["detail"]
        gate.clear()
        eventually(lambda: place.ask(daemon, PATH).status == 200)
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))

    def test_a_body_that_is_cut_off_is_gone_on_with(self, adapter: Adapter, daemon: Daemon) -> None:
        gate = adapter.the_gate()
        place = adapter.put({PATH: adapter.fresh_bytes(2 * MIB)})
        gate.clear()
        rule = gate.add(brings_bytes(adapter), times=1, cut=MIB)
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        assert rule.met == 1

    def test_a_wrong_byte_is_never_published(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("digests")
        gate = adapter.the_gate()
        before = published(daemon)
        place = adapter.put({PATH: adapter.fresh_bytes(MIB)})
        gate.clear()
        gate.add(brings_bytes(adapter), flip=9000)
        refused(place.ask(daemon, PATH), "digest_mismatch", "archive_invalid", "content_invalid")
        assert published(daemon) == before
        gate.clear()
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))

    def test_after_a_kill_only_what_is_missing_is_fetched(
        self, adapter: Adapter, daemon: Daemon
    ) -> None:
        """kill -9 while the last part is under way."""
        adapter.need("ranges")
        gate = adapter.the_gate()
        place = adapter.put({PATH: adapter.fresh_bytes(BIG)})
        gate.clear()
        held = threading.Event()
        before = set(daemon.root.glob("ingest/*"))
        gate.add(brings_bytes(adapter), skip=2, wait=held)
        replies: list[Reply] = []

        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                replies.append(place.ask(daemon, PATH))

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: parts_done(daemon, before) >= 2)
        daemon.kill()
        gate.clear()
        asking.join(60)
        assert not replies
        daemon.start()
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        sent = sum(each.sent for each in gate.passed(brings_bytes(adapter)))
        assert sent <= 8 * MIB  # one part of three


def parts_done(daemon: Daemon, before: set[Path]) -> int:
    """Parts that the journals of what is fetched since ``before`` have."""
    folders = set(daemon.root.glob("ingest/*")) - before
    return sum(
        journal.read_bytes().count(b'"offset":')
        for folder in folders
        for journal in folder.glob("journal")
    )


def brings_bytes(adapter: Adapter) -> Callable[[Seen], bool]:
    """Data that is fetched, not looked at: no HEAD, and no first byte alone."""

    def matches(seen: Seen) -> bool:
        is_look = seen.method == "HEAD" or seen.headers.get("range") == "bytes=0-0"
        return adapter.is_data(seen) and not is_look

    return matches
