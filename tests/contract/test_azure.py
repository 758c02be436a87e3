"""Blobs at Azure under the contract."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from tests.contract.answers import given
from tests.contract.rows import EveryRow

if TYPE_CHECKING:
    from tests.contract.adapters.azure import Azure
    from tests.harness import Daemon

W = b"weights" * 1000
REFUSED = (403, {"x-ms-error-code": "AuthenticationFailed"}, b"")


class TestAzure(EveryRow):
    def test_a_signature_that_ends_in_mid_fetch_is_renewed(
        self, adapter: Azure, daemon: Daemon
    ) -> None:
        place = adapter.put({"m/x.bin": W})
        gate = adapter.the_gate()
        gate.clear()
        rule = gate.add(adapter.is_data, times=1, refuse=REFUSED)
        given(place.ask(daemon, "m"), {"x.bin": W})
        assert rule.met == 1

    def test_what_is_packed_arrives_as_it_is_stored(self, adapter: Azure, daemon: Daemon) -> None:
        place = adapter.put({"m/x.bin": W})
        container, _, below = place.name.partition("/")
        packed = gzip.compress(W)
        encoding = {"x-ms-blob-content-encoding": "gzip"}
        adapter.server.put(container, f"{below}/m/t.json", packed, **encoding)
        given(place.ask(daemon, "m"), {"x.bin": W, "t.json": packed})

    def test_one_snapshot(self, adapter: Azure, daemon: Daemon) -> None:
        place = adapter.put({"m/x.bin": W})
        container, _, below = place.name.partition("/")
        snapshot = adapter.server.snapshot(container, f"{below}/m/x.bin")
        place.change("m/x.bin", b"new")
        uri = f"{place.uri('m/x.bin')}?snapshot={snapshot}"
        given(place.ask(daemon, uri=uri), {"x.bin": W})
        given(place.ask(daemon, "m/x.bin"), {"x.bin": b"new"})

    def test_a_signature_in_the_uri_is_no_part_of_the_model(
        self, adapter: Azure, daemon: Daemon
    ) -> None:
        place = adapter.put({"m/x.bin": W})
        first = given(place.ask(daemon, "m"), {"x.bin": W})
        signed = f"{place.uri('m')}?{adapter.server.sign('rl')}"
        second = given(place.ask(daemon, uri=signed, credentials={}), {"x.bin": W})
        assert (second["key"], second["result"]) == (first["key"], "hit")
        assert "sig" not in str(second)
