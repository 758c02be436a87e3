"""When a model is looked at by schedule. No clock but the test's."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.cache.refreshing import interval_of, next_look
from cachd.errors import ConfigInvalid
from cachd.model import make_ref
from cachd.settings import FreshnessSettings, RefreshRule, load_settings


def ref(uri: str, origin: str = "s3+https://s3.example"):  # type: ignore[no-untyped-def]
    return make_ref(uri=uri, origin=origin, is_default_origin=True)


def test_the_first_rule_that_matches_counts() -> None:
    rules = FreshnessSettings(
        refresh=(
            RefreshRule(match="s3://models/live/*", every=60),
            RefreshRule(match="https://s3.example", every=3600),
        )
    ).refresh
    assert interval_of(ref("s3://models/live/a"), rules) == 60
    assert interval_of(ref("s3://models/b"), rules) == 3600
    assert interval_of(ref("s3://models/b", "s3+https://elsewhere"), rules) is None


@given(st.floats(0, 1), st.floats(1, 1e6), st.floats(0, 1e9))
def test_looks_are_spread_at_first_and_jittered_afterwards(
    chance: float, every: float, now: float
) -> None:
    assert now <= next_look(None, now, every, chance) <= now + every
    after = next_look(now, 0.0, every, chance) - now
    assert 0.89 * every <= after <= 1.11 * every + 1e-6


def test_a_nodes_refreshes_do_not_come_at_once() -> None:
    chances = random.Random(1)
    due = sorted(next_look(None, 0.0, 3600.0, chances.random()) for _ in range(1000))
    assert (
        max(sum(1 for at in due if start <= at < start + 60) for start in range(0, 3600, 60)) < 40
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("6h", 21600), ("1d", 86400), ("2.5", 2.5)]
)
def test_durations(text: str, seconds: float) -> None:
    environ = {"CACHD_FRESHNESS_REFRESH": f'[{{"match": "*", "every": "{text}"}}]'}
    assert load_settings(None, environ).freshness.refresh[0].every == seconds


@pytest.mark.parametrize("text", ["", "0s", "-1", "1w", "soon"])
def test_durations_that_are_none(text: str) -> None:
    environ = {"CACHD_FRESHNESS_REFRESH": f'[{{"match": "*", "every": "{text}"}}]'}
    with pytest.raises(ConfigInvalid, match="every"):
        load_settings(None, environ)
