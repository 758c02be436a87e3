"""What a URI means changes or goes, also in mid-fetch: one state or the other, never a mixture."""

from __future__ import annotations

from pathlib import Path

from tests.contract.adapter import Adapter
from tests.contract.answers import given, published
from tests.contract.rows_faults import brings_bytes
from tests.contract.rows_shape import BIG
from tests.disk import tree_of
from tests.harness import Daemon, Reply

PATH = "m/model.bin"
CLEAR = {"origin_changed", "not_found", "size_mismatch", "digest_mismatch", "origin_failed"}


def is_one_state(reply: Reply, *states: bytes) -> bool:
    """One of the states, whole, or a clear code."""
    answer = reply.json()
    if reply.status != 200:
        assert answer["code"] in CLEAR, answer
        return False
    (body,) = tree_of(Path(answer["path"])).values()
    assert body in states
    return True


class Moving:
    def test_another_state_is_another_revision(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("changes")
        place = adapter.put({PATH: b"old" * 1000})
        first = given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        place.change(PATH, b"new" * 1000)
        second = given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        assert second["revision"] != first["revision"]
        assert second["key"] == first["key"]

    def test_a_change_between_plan_and_fetch(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("changes")
        gate = adapter.the_gate()
        old, new = adapter.fresh_bytes(BIG), adapter.fresh_bytes(BIG)
        place = adapter.put({PATH: old})
        gate.clear()
        gate.add(brings_bytes(adapter), times=1, act=lambda: place.change(PATH, new))
        is_one_state(place.ask(daemon, PATH), old, new)
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))

    def test_a_change_between_two_parts(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("changes", "ranges")
        gate = adapter.the_gate()
        old, new = adapter.fresh_bytes(BIG), adapter.fresh_bytes(BIG)
        place = adapter.put({PATH: old})
        gate.clear()
        gate.add(brings_bytes(adapter), times=1, skip=1, act=lambda: place.change(PATH, new))
        is_one_state(place.ask(daemon, PATH), old, new)
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))

    def test_it_goes_between_plan_and_fetch(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("removal")
        gate = adapter.the_gate()
        before = published(daemon)
        old = adapter.fresh_bytes(BIG)
        place = adapter.put({PATH: old, "other.bin": b"x"})
        gate.clear()
        gate.add(brings_bytes(adapter), times=1, act=lambda: place.change(PATH, None))
        if not is_one_state(place.ask(daemon, PATH), old):
            assert published(daemon) == before
        assert place.ask(daemon, PATH).json()["code"] == "not_found"

    def test_what_is_gone_is_not_found(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("removal")
        place = adapter.put({PATH: b"old" * 1000, "other.bin": b"x"})
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        place.change(PATH, None)
        assert place.ask(daemon, PATH).json()["code"] == "not_found"
