"""``gs://`` under the contract."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

from tests.contract.answers import given, refused
from tests.contract.rows import EveryRow
from tests.servers.gcs import PUBLIC_BUCKET, Stored

if TYPE_CHECKING:
    from tests.contract.adapters.google import Google
    from tests.harness import Daemon

W = b"weights" * 1000


class TestGoogle(EveryRow):
    def test_what_is_packed_for_the_way_arrives_as_it_was_meant(
        self, adapter: Google, daemon: Daemon
    ) -> None:
        place = adapter.put_public({"m/x.bin": W})
        _, _, below = place.name.partition("/")
        packed = Stored(gzip.compress(W), encoding="gzip")
        adapter.server.put(PUBLIC_BUCKET, f"{below}/m/t.json", packed)
        given(place.ask(daemon, "m", "none"), {"x.bin": W, "t.json": W})

    def test_one_generation(self, adapter: Google, daemon: Daemon) -> None:
        place = adapter.put({"m/x.bin": W})
        bucket, _, below = place.name.partition("/")
        old = adapter.server.buckets[bucket][f"{below}/m/x.bin"]
        adapter.server.is_versioned = True
        place.change("m/x.bin", b"new")
        adapter.server.is_versioned = False
        given(place.ask(daemon, f"m/x.bin?generation={old.generation}"), {"x.bin": W})
        given(place.ask(daemon, "m/x.bin"), {"x.bin": b"new"})

    def test_another_generation_than_was_asked_for_is_noticed(
        self, adapter: Google, daemon: Daemon
    ) -> None:
        """A server that heeds no generation."""
        place = adapter.put_public({"m/x.bin": W})
        bucket, _, below = place.name.partition("/")
        name = f"{below}/m/x.bin"
        old = adapter.server.buckets[bucket][name]

        def replace() -> None:
            new = adapter.server.put(bucket, name, Stored(W[::-1]))
            adapter.server.versions[bucket, name, old.generation] = new

        gate = adapter.the_gate()
        gate.clear()
        gate.add(adapter.is_data, times=1, act=replace)
        answer = place.ask(daemon, "m/x.bin", "none")
        if answer.status == 200:
            given(answer, {"x.bin": W[::-1]})
        else:
            refused(answer, "origin_changed")

    def test_a_token_that_ends_in_mid_fetch_is_renewed(
        self, adapter: Google, daemon: Daemon
    ) -> None:
        place = adapter.put({"m/x.bin": W})
        gate = adapter.the_gate()
        gate.clear()
        gate.add(adapter.is_data, times=1, act=adapter.server.tokens.clear)
        before = len(adapter.server.exchanges)
        given(place.ask(daemon, "m"), {"x.bin": W})
        assert len(adapter.server.exchanges) > before

    def test_a_key_that_cachd_does_not_know_is_named(self, adapter: Google, daemon: Daemon) -> None:
        key = json.dumps({"type": "external_account", "token_url": "secret-2718"})
        place = adapter.put({"m/x.bin": W})
        answer = refused(place.ask(daemon, credentials={"google_key": key}), "request_invalid")
        assert "external_account" in answer["detail"]
        assert "secret-2718" not in str(answer)
