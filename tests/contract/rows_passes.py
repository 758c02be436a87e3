"""Passes: who shows none, a wrong one or one without the right is refused, told which it was, and
no secret stays anywhere."""

from __future__ import annotations

import pytest

from tests.contract.adapter import Adapter
from tests.contract.answers import given, published, refused
from tests.harness import Daemon
from tests.process.secrecy import arguments, written

W = b"weights" * 1000
PATH = "m/model.bin"
REFUSED = ["none", "wrong", "denied"]


def secrets_of(adapter: Adapter) -> list[str]:
    return [word for each in adapter.passes.values() for word in each.secrets]


class Passes:
    @pytest.mark.parametrize("who", REFUSED)
    def test_a_pass_that_is_not_good(self, adapter: Adapter, daemon: Daemon, who: str) -> None:
        adapter.need("passes")
        if who not in adapter.passes:
            pytest.skip(f"there is no such pass as {who!r}")
        before = published(daemon)
        place = adapter.put({PATH: W})
        answer = refused(place.ask(daemon, PATH, who), *adapter.passes[who].codes)
        shown = f"{answer['detail']} {answer['hint']}".lower()
        assert adapter.passes[who].says.lower() in shown
        assert published(daemon) == before
        for word in secrets_of(adapter):
            assert word not in str(answer)

    @pytest.mark.parametrize("who", REFUSED)
    def test_what_another_fetched_takes_a_pass_of_ones_own(
        self, adapter: Adapter, daemon: Daemon, who: str
    ) -> None:
        adapter.need("passes")
        if who not in adapter.passes:
            pytest.skip(f"there is no such pass as {who!r}")
        place = adapter.put({PATH: W})
        given(place.ask(daemon, PATH), adapter.tree(place, PATH))
        refused(place.ask(daemon, PATH, who), *adapter.passes[who].codes, "not_found")
        assert given(place.ask(daemon, PATH), adapter.tree(place, PATH))["result"] == "hit"

    def test_what_is_public_takes_none(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("passes", "public")
        place = adapter.put_public({PATH: W})
        given(place.ask(daemon, PATH, "none"), adapter.tree(place, PATH))
        assert place.ask(daemon, PATH, "none").json()["result"] == "hit"

    def test_no_secret_stays_anywhere(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("passes")
        place = adapter.put({PATH: W})
        shown = [place.ask(daemon, PATH, who).body.decode() for who in adapter.passes]
        assert secrets_of(adapter)
        shown += [*written(daemon), *arguments(daemon)]
        for word in secrets_of(adapter):
            assert not any(word in each for each in shown), word
