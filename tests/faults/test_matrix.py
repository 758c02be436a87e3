"""Every fault of an origin, at every source that speaks HTTP, through a whole daemon.

The outcome is the right bytes, or a clear code and nothing published; either way nothing is
poisoned: once the fault is over the next ask has the right bytes, and what was in place is not
fetched again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from awscrt import checksums

from tests.faults.conftest import MIB, PART, Model, make_model
from tests.harness import Daemon
from tests.origins.bucket import Bucket
from tests.origins.fault import Fault, s3_error
from tests.servers.certificates import Certificates, make_certificates

KINDS = ["s3-http", "s3-https", "http", "https", "archive-http", "archive-https"]
QUICK = ("s3-http", "https", "archive-http")
"""Each source and both transports; the other pairs are tried by make test-slow."""
EXPIRED = s3_error("AccessDenied", "Request has expired")


@dataclass(frozen=True)
class Row:
    """``fault`` hits the main file's GETs, ``times`` times after ``skip`` good ones (None: for as
    long as the first ask lasts). ``codes`` are what may be answered; "" is the right bytes.
    ``again``: most bytes of the main file, beyond its size, that a fault that passes may cost."""

    name: str
    fault: Fault
    times: int | None
    codes: tuple[str, ...]
    skip: int = 0
    kinds: tuple[str, ...] = tuple(KINDS)
    again: int = PART + 64 * 1024


RIGHT = ("",)
S3 = ("s3-http", "s3-https")
EXPIRED_TOKEN = Fault("status", status=400, body=s3_error("ExpiredToken"))
BUSY = {"Retry-After": "1"}
UNDER_WAY = PART
"""Bytes that a connection which was given up may still take …"""
STRAY = 64 * 1024
"""… and what one that drips or is about to be closed may: far less than a part."""

TABLE = [
    Row("reset-passes", Fault("reset", after=3 * MIB), 1, RIGHT),
    Row("reset-lasts", Fault("reset", after=50_000), None, ("origin_unreachable",)),
    Row("stall-passes", Fault("stall", after=MIB), 1, RIGHT, kinds=QUICK),
    Row("stall-lasts", Fault("stall", after=0), None, ("origin_stalled",), kinds=QUICK),
    Row("drip-passes", Fault("drip", chunk=500), 1, RIGHT, kinds=QUICK),
    Row("drip-lasts", Fault("drip", chunk=500), None, ("origin_stalled",), kinds=QUICK),
    Row("short-passes", Fault("close", after=MIB), 1, RIGHT),
    Row("short-lasts", Fault("close", after=1000), None, ("origin_unreachable",)),
    Row("extra-lasts", Fault("extra"), None, RIGHT),
    Row("long-passes", Fault("long"), 1, RIGHT),
    Row("long-lasts", Fault("long"), None, ("origin_failed", "origin_changed")),
    Row("whole-for-range", Fault("ignore_range"), None, RIGHT, again=2 * PART),
    Row("range-off-passes", Fault("wrong_start"), 1, RIGHT),
    Row("range-off-lasts", Fault("wrong_start"), None, ("origin_failed",)),
    Row("total-off-lasts", Fault("wrong_total"), None, ("origin_changed",)),
    Row("etag-off-passes", Fault("etag"), 1, RIGHT, again=2 * PART),
    Row("etag-off-lasts", Fault("etag"), None, ("origin_changed",)),
    Row("expired-token", EXPIRED_TOKEN, None, ("credentials_expired", "access_denied"), kinds=S3),
    Row("expired-url", Fault("status", status=403, body=EXPIRED), None, ("access_denied",), skip=1),
    Row("404-in-the-middle", Fault("status", status=404), None, ("origin_changed",), skip=1),
    Row("429-passes", Fault("status", status=429, headers=BUSY), 1, RIGHT),
    Row("503-passes", Fault("status", status=503, headers=BUSY), 1, RIGHT, skip=1),
    Row("503-lasts", Fault("status", status=503), None, ("origin_busy",), skip=1),
    Row("500-passes", Fault("status", status=500), 2, RIGHT),
    Row("500-lasts", Fault("status", status=500), None, ("origin_failed",)),
    Row("loop", Fault("redirect"), None, ("origin_failed", "origin_moved")),
    Row("garbage-lasts", Fault("garbage"), None, ("origin_failed",)),
]


def marks_of(kind: str, quick: Sequence[str] = QUICK) -> tuple[pytest.MarkDecorator, ...]:
    return () if kind in quick else (pytest.mark.slow,)


CASES = [
    pytest.param(kind, row, id=f"{kind}-{row.name}", marks=marks_of(kind))
    for row in TABLE
    for kind in row.kinds
]
EACH = [pytest.param(kind, marks=marks_of(kind)) for kind in KINDS]
SECURE = [
    pytest.param(kind, marks=marks_of(kind, ("s3-https", "https")))
    for kind in KINDS
    if kind.endswith("https")
]


@pytest.fixture
def origins(certificates: Certificates) -> Iterator[Callable[[str], Bucket]]:
    made: list[Bucket] = []

    def make(kind: str) -> Bucket:
        secure = kind.endswith("https")
        made.append(Bucket(certificates.server_context() if secure else None))
        return made[-1].__enter__()

    yield make
    for origin in made:
        origin.close()


def check_right(daemon: Daemon, model: Model) -> dict[str, object]:
    reply = model.ask(daemon)
    answer = reply.json()
    assert reply.status == 200, answer
    assert model.read(Path(answer["path"])) == model.files
    return answer


@pytest.mark.parametrize(("kind", "row"), CASES)
def test_a_fault_ends_in_the_right_bytes_or_in_a_clear_error(
    request: pytest.FixtureRequest, origins: Callable[[str], Bucket], kind: str, row: Row
) -> None:
    is_slow = row.fault.kind in ("stall", "drip")
    daemon: Daemon = request.getfixturevalue("hasty" if is_slow else "daemon")
    origin = origins(kind)
    model = make_model(kind, origin, row.name)
    fault = row.fault
    if fault.kind == "redirect":
        fault = Fault("redirect", status=307, location=origin.url(model.main))
    origin.fault(model.main, fault, times=row.times or 1 << 30, skip=row.skip)
    before = {path.name for path in (daemon.root / "snapshots").glob("*/*")}
    if row.codes == RIGHT:
        check_right(daemon, model)
    else:
        reply = model.ask(daemon)
        answer = reply.json()
        assert answer["code"] in row.codes, answer
        assert answer["hint"]
        assert {path.name for path in (daemon.root / "snapshots").glob("*/*")} == before
    first = origin.bytes_sent(model.main)
    assert row.codes != RIGHT or first <= model.size + row.again
    origin.clear_faults()
    check_right(daemon, model)
    assert check_right(daemon, model)["result"] == "hit"
    assert origin.bytes_sent(model.main) - first <= (
        STRAY if row.codes == RIGHT else model.size + UNDER_WAY
    )


@pytest.mark.parametrize("kind", EACH)
def test_a_model_that_moves_in_mid_fetch_is_never_mixed(
    daemon: Daemon, origins: Callable[[str], Bucket], kind: str
) -> None:
    origin = origins(kind)
    model = make_model(kind, origin, "moving")
    origin.upon(model.main, 2, lambda: model.publish(77))
    answer = check_right(daemon, model)
    assert answer["result"] == "miss"
    assert check_right(daemon, model)["revision"] == answer["revision"]


@pytest.mark.parametrize("kind", EACH)
def test_a_flipped_byte_is_never_published(
    daemon: Daemon, origins: Callable[[str], Bucket], kind: str
) -> None:
    """Where a checksum is known: the origin's own, or the one inside the archive."""
    origin = origins(kind)
    model = make_model(kind, origin, "flipped")
    if not kind.startswith("archive"):
        size = 5 * MIB
        data = model.body.data[:size]
        value = base64.b64encode(checksums.crc64nvme(data).to_bytes(8, "big")).decode()
        model.body.data = data
        model.files[model.main.rpartition("/")[2]] = data
        model.body.headers |= {"x-amz-checksum-crc64nvme": value}
    origin.fault(model.main, Fault("flip", after=9000), times=1)
    answer = model.ask(daemon).json()
    assert answer["code"] in ("digest_mismatch", "archive_invalid"), answer
    check_right(daemon, model)


@pytest.mark.parametrize("kind", SECURE)
def test_a_certificate_that_nobody_vouches_for(
    daemon: Daemon,
    origins: Callable[[str], Bucket],
    certificates: Certificates,
    tmp_path: Path,
    kind: str,
) -> None:
    origin = origins(kind)
    model = make_model(kind, origin, "untrusted")
    origin._context = make_certificates(tmp_path).server_context()
    assert model.ask(daemon).json()["code"] == "origin_tls"
    assert not origin.requests()
    origin._context = certificates.server_context()
    check_right(daemon, model)


@pytest.mark.parametrize("kind", SECURE)
def test_a_certificate_that_changes_in_mid_fetch(
    daemon: Daemon,
    origins: Callable[[str], Bucket],
    certificates: Certificates,
    tmp_path: Path,
    kind: str,
) -> None:
    origin = origins(kind)
    model = make_model(kind, origin, "retrusted")
    bad = make_certificates(tmp_path).server_context()
    origin.fault(model.main, Fault("reset", after=MIB), times=1)
    origin.upon(model.main, 1, lambda: setattr(origin, "_context", bad))
    answer = model.ask(daemon).json()
    assert answer.get("code") in ("origin_tls", None), answer
    origin._context = certificates.server_context()
    check_right(daemon, model)
