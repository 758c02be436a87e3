"""Progress, sizes and tables are pure text."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from cachd.cli import render
from cachd.cli.progress import Display, Meter, State, bar_line, heartbeat_line

GIB = 1024**3
RUNNING = State(
    phase="fetching",
    bytes=3 * GIB,
    total=4 * GIB,
    rate=GIB / 2,
    eta=2.0,
    files_done=1,
    files_total=8,
)


def test_a_bar_tells_everything_where_there_is_room() -> None:
    line = bar_line(RUNNING, 6.0, 120, plain=True)
    assert line.startswith("fetching  [######################--------]   75%  3.00 GiB of 4.00 GiB")
    assert line.endswith("512 MiB/s  eta 2.0 s  files 1/8")


@pytest.mark.parametrize("width", range(200))
def test_a_bar_fits_every_width(width: int) -> None:
    for state in (RUNNING, State(), State(bytes=5, rate=1.0, note="x" * 50)):
        assert len(bar_line(state, 1.0, width)) <= width


def test_a_narrow_bar_keeps_phase_and_percent() -> None:
    assert bar_line(RUNNING, 6.0, 20, plain=True) == "fetching   75%"
    assert "75%" in bar_line(RUNNING, 6.0, 40, plain=True)


def test_a_phase_without_a_size_shows_the_time() -> None:
    assert bar_line(State(phase="resolving"), 12.0, 80) == "resolving  12 s"


def test_a_heartbeat() -> None:
    assert heartbeat_line(RUNNING, 6.0) == (
        "fetching 3.00 GiB of 4.00 GiB (75 %), 512 MiB/s, eta 2.0 s, 1 of 8 files, 6.0 s so far"
    )
    assert heartbeat_line(State(phase="queued"), 61.0) == "queued, 1m01s so far"


def test_events_change_the_state() -> None:
    state = State()
    state.take({"event": "resolving"})
    state.take({"event": "heartbeat", "elapsed": 5.0})
    assert state.phase == "resolving"
    state.take({"event": "progress", "bytes": 5, "total": None, "rate": None, "eta": None})
    assert (state.phase, state.bytes, state.total) == ("fetching", 5, None)
    state.take({"event": "retry", "cause": "origin_busy"})
    state.take({"event": "retry", "cause": "origin_busy"})
    assert (state.retries, state.note, state.phase) == (2, "origin_busy", "fetching")


def test_a_meter_counts_for_the_display() -> None:
    display = Display(stream=io.StringIO(), quiet=True)
    meter = Meter(display, "copying", 100, 2)
    meter.add(60)
    meter.file_done()
    assert (display.state.bytes, display.state.files_done, meter.bytes) == (60, 1, 60)


def test_names_from_elsewhere_can_not_steer_the_terminal() -> None:
    line = bar_line(State(phase="x\x1b[2J", total=1), 0.0, 80)
    assert "\x1b" not in line
    assert "\x1b" not in render.table(("A",), [("b\x1b[31m\nc",)])


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"),
        (100 * 1024, "100 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (27.1 * GIB, "27.1 GiB"),
        (5000 * 1024**5, "5000 PiB"),
        (None, "-"),
    ],
)
def test_size(count: float | None, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("5", 5), ("5B", 5), ("1.5 KiB", 1536), ("2G", 2 * 10**9), ("2Gi", 2 * GIB), ("1tb", 10**12)],
)
def test_parse_size(text: str, count: int) -> None:
    assert render.parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-5", "5 apples", "1.2.3"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        render.parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.85, "850 ms"),
        (1.0, "1.0 s"),
        (59.4, "59 s"),
        (59.7, "1m00s"),
        (3599.6, "1h00m"),
        (90061, "1d01h"),
        (None, "-"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


def test_ago() -> None:
    now = datetime(2026, 1, 1, 0, 5, 12, tzinfo=UTC)
    assert render.ago("2026-01-01T00:00:00Z", now) == "5m12s ago"
    assert render.ago("2026-01-02T00:00:00Z", now) == "now"
    assert render.ago("nonsense", now) == "nonsense"
    assert render.ago(None) == "-"


def test_a_table_is_aligned_and_shortens_one_column() -> None:
    rows = [("a", "s3://bucket/a/very/long/prefix/indeed", 1), ("bb", "s3://b", 22)]
    text = render.table(
        ("K", "URI", "N"), rows, right=frozenset({"N"}), width=30, flexible="URI"
    ).splitlines()
    assert [len(line) for line in text] == [30, 30, 30]
    assert text[1] == "a   s3://bucke…efix/indeed   1"
