"""When a revision may become current: windows, rules, what a person refused. No clock."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.cache.updating import is_held, refuse
from cachd.errors import ConfigInvalid
from cachd.settings import RefreshRule, load_settings
from cachd.settings.windows import is_any_open, parse_window
from cachd.store.updates import NOTHING, UpdateRecord, read_record, settled

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
OLD, NEW, OTHER = "0a", "0b", "0c"


def at(day: int, clock: str) -> datetime:
    hour, minute = map(int, clock.split(":"))
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("text", "day", "clock", "is_open"),
    [
        ("02:00-04:00", 0, "02:00", True),
        ("02:00-04:00", 6, "03:59", True),
        ("02:00-04:00", 0, "04:00", False),
        ("02:00-04:00", 0, "01:59", False),
        ("Mon-Fri 02:00-04:00", 4, "03:00", True),
        ("Mon-Fri 02:00-04:00", 5, "03:00", False),
        ("Sat-Mon 02:00-04:00", 6, "03:00", True),
        ("Sat-Mon 02:00-04:00", 1, "03:00", False),
        ("sat,SUN 0:00 - 24:00", 5, "23:59", True),
        ("Fri 22:00-02:00", 4, "23:00", True),
        ("Fri 22:00-02:00", 5, "01:59", True),
        ("Fri 22:00-02:00", 4, "01:59", False),
        ("Sun 22:00-02:00", 0, "01:00", True),
    ],
)
def test_windows(text: str, day: int, clock: str, is_open: bool) -> None:
    assert parse_window(text).is_open(at(day, clock)) is is_open


@pytest.mark.parametrize(
    "text",
    ["", "02:00", "2-4", "25:00-26:00", "02:60-03:00", "02:00-02:00", "Funday 02:00-04:00",
     "Mon- 02:00-04:00", "02:00-04:00 Mon"],
)  # fmt: skip
def test_windows_that_are_none(text: str) -> None:
    environ = {
        "CACHD_FRESHNESS_REFRESH": '[{"match": "*", "every": 1, "move": "schedule", '
        f'"window": "{text}"}}]'
    }
    with pytest.raises(ConfigInvalid, match="window"):
        load_settings(None, environ)


@pytest.mark.parametrize("rule", ['"move": "schedule"', '"window": "02:00-04:00"'])
def test_a_window_goes_with_a_schedule(rule: str) -> None:
    environ = {"CACHD_FRESHNESS_REFRESH": f'[{{"match": "*", "every": 1, {rule}}}]'}
    with pytest.raises(ConfigInvalid, match="window is for move: schedule"):
        load_settings(None, environ)


@given(st.integers(0, 400 * 24 * 60))
def test_each_minute_is_in_one_of_two_halves_of_the_week(minutes: int) -> None:
    moment = MONDAY + timedelta(minutes=minutes)
    halves = ("Mon-Sun 22:00-02:00", "02:00-22:00")
    assert sum(is_any_open([half], moment) for half in halves) == 1


@given(st.text(alphabet="0123456789:-, MonFriSat١", max_size=16))
def test_any_text_is_a_window_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        window = parse_window(text)
        assert window.days <= set(range(7))
        assert 0 <= window.start < 24 * 60
        assert 0 <= window.end <= 24 * 60


@pytest.mark.parametrize(
    "change",
    [{"waiting": ["0a"]}, {"waiting": "../0a"}, {"refused": [7]}, {"refused": None}, {"by": 1},
     {"seen": "NaN"}, {"at": 1e300}, {"at": -1}, {"approved": None}, {"promoted": "Ä"}],
)  # fmt: skip
def test_a_record_that_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "0a"
    good = UpdateRecord(waiting=NEW, seen=1.5, was_here=True, refused=(OTHER,), by="ä", at=2.0)
    file.write_text(json.dumps(asdict(good)))
    assert read_record(file) == good
    file.write_text(json.dumps({**asdict(good), **change}))
    with pytest.raises(ValueError, match="no record of an update"):
        read_record(file)


def rule(move: str, window: str = "") -> RefreshRule:
    return RefreshRule.model_validate(
        {"match": "*", "every": 60, "move": move, **({"window": window} if window else {})}
    )


@pytest.mark.parametrize(
    ("move", "record", "held"),
    [
        (None, NOTHING, False),
        (rule("on_ready"), NOTHING, False),
        (rule("manual"), NOTHING, True),
        (rule("manual"), UpdateRecord(approved=NEW), False),
        (rule("manual"), UpdateRecord(approved=OTHER), True),
        (rule("schedule", "02:00-04:00"), NOTHING, False),
        (rule("schedule", "04:00-06:00"), NOTHING, True),
        # What a person rolled back no rule takes up again, in its window or without any rule.
        (None, UpdateRecord(refused=(NEW,)), True),
        (rule("on_ready"), UpdateRecord(refused=(NEW,)), True),
        (rule("schedule", "02:00-04:00"), UpdateRecord(refused=(NEW,)), True),
        (rule("on_ready"), UpdateRecord(refused=(OTHER,)), False),
    ],
)
def test_what_is_held(move: RefreshRule | None, record: UpdateRecord, held: bool) -> None:
    assert is_held(move, record, NEW, at(0, "03:00")) is held


def test_going_forward_refuses_nothing_and_going_back_all_that_was_known() -> None:
    assert refuse(UpdateRecord(waiting=NEW), NEW, OLD) == ()
    assert refuse(UpdateRecord(refused=(NEW,), waiting=NEW), NEW, OLD) == ()
    assert refuse(NOTHING, OLD, NEW) == (NEW,)
    assert refuse(UpdateRecord(waiting=OTHER), OLD, NEW) == (NEW, OTHER)
    # To stay with what is current is to refuse what waits.
    assert refuse(UpdateRecord(waiting=NEW), OLD, OLD) == (NEW,)
    many = UpdateRecord(refused=tuple(f"{n:x}" for n in range(256, 300)))
    assert len(refuse(many, OLD, NEW)) == 16


def test_a_record_gives_way_to_what_is_current() -> None:
    """A kill came in between, or a daemon ran here that knows no such records."""
    record = UpdateRecord(waiting=NEW, seen=1.0, was_here=True, refused=(OTHER,), promoted=OLD)
    assert settled(record, OLD) == record
    assert settled(record, NEW) == UpdateRecord(refused=(OTHER,), promoted=OLD)
    assert settled(record, OTHER).refused == ()
    assert settled(record, None) == NOTHING
