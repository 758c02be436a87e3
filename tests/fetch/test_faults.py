"""Every fault of an origin ends in the right bytes or in the right error, never in wrong bytes."""

from __future__ import annotations

from typing import Any

import pytest

from cachd.model import Digest, Validator
from tests.fetch.conftest import BLOCK, MIB, Rig, plan_of, planned
from tests.origins.fault import Fault, FaultOrigin, pattern, s3_error

DATA = pattern(20 * MIB + 12345)
"""Three parts of whole blocks, the last one short."""

PASSING = [
    Fault("reset", after=3 * MIB),
    Fault("close", after=3 * MIB),
    Fault("close", after=0),
    Fault("wrong_start"),
    Fault("long"),
    Fault("garbage"),
    Fault("no_etag"),
    Fault("status", status=500),
    Fault("status", status=503, headers={"Retry-After": "0"}, body=s3_error("SlowDown")),
    Fault("status", status=429, headers={"Retry-After": "0"}),
    Fault("status", status=200, body=b"hello"),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda f: f"{f.kind}-{f.after}-{f.status}")
async def test_a_fault_that_passes_is_tried_again(
    rig: Rig, origin: FaultOrigin, fault: Fault
) -> None:
    plan = plan_of(planned(origin, "big.bin", DATA), planned(origin, "small.bin", pattern(5000)))
    origin.fault("/big.bin", fault, times=2)
    result = await rig.fetch(plan)
    assert rig.read("big.bin") == DATA
    assert rig.read("small.bin") == pattern(5000)
    assert [f.path for f in result.files] == ["big.bin", "small.bin"]
    assert len(rig.retries) >= 1


LASTING = [
    (Fault("reset", after=100), "origin_unreachable"),
    (Fault("close", after=100), "origin_unreachable"),
    (Fault("garbage"), "origin_failed"),
    (Fault("wrong_start"), "origin_failed"),
    (Fault("wrong_total"), "origin_changed"),
    (Fault("etag"), "origin_changed"),
    (Fault("weak_etag"), "origin_changed"),
    (Fault("no_etag"), "origin_failed"),
    (Fault("gzip"), "origin_failed"),
    (Fault("status", status=404, body=s3_error("NoSuchKey")), "origin_changed"),
    (Fault("status", status=412, body=s3_error("PreconditionFailed")), "origin_changed"),
    (Fault("status", status=416), "origin_changed"),
    (Fault("status", status=500, body=s3_error("InternalError")), "origin_failed"),
    (Fault("status", status=503, body=s3_error("SlowDown")), "origin_busy"),
    (Fault("status", status=429), "origin_busy"),
    (Fault("status", status=418), "origin_failed"),
    (Fault("status", status=301, body=s3_error("PermanentRedirect")), "origin_moved"),
    (Fault("status", status=400, body=s3_error("AuthorizationHeaderMalformed")), "origin_moved"),
    (Fault("status", status=400, body=s3_error("ExpiredToken")), "credentials_invalid"),
    (Fault("status", status=403, body=s3_error("AccessDenied")), "credentials_invalid"),
    (Fault("status", status=401), "credentials_invalid"),
    (Fault("redirect", location="/big.bin"), "origin_failed"),
]


@pytest.mark.parametrize(
    ("fault", "code"), LASTING, ids=lambda x: x if isinstance(x, str) else f"{x.kind}-{x.status}"
)
async def test_a_fault_that_lasts_is_an_error(
    rig: Rig, origin: FaultOrigin, fault: Fault, code: str
) -> None:
    plan = plan_of(planned(origin, "big.bin", DATA))
    origin.fault("*", fault)
    await rig.mover(attempts=3)
    error = await rig.fails(plan)
    assert error.code == code
    assert rig.journal == []
    assert "x" * 80 not in error.message


async def test_404_of_one_file_in_the_middle(rig: Rig, origin: FaultOrigin) -> None:
    files = [planned(origin, f"f{i}", pattern(20_000, i)) for i in range(100)]
    origin.fault("/f50", Fault("status", status=404, body=s3_error("NoSuchKey")))
    error = await rig.fails(plan_of(*files))
    assert error.code == "origin_changed"
    assert "f50" in error.message


async def test_extra_bytes_are_never_taken(rig: Rig, origin: FaultOrigin) -> None:
    files = [planned(origin, f"f{i}", pattern(9000, i)) for i in range(40)]
    origin.fault("*", Fault("extra"))
    await rig.fetch(plan_of(planned(origin, "big.bin", DATA), *files))
    assert rig.read("big.bin") == DATA
    assert all(rig.read(f"f{i}") == pattern(9000, i) for i in range(40))


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "crc32", "crc32c", "crc64nvme", "sha1"])
@pytest.mark.parametrize("size", [100_000, 20 * MIB + 7])
async def test_a_flipped_byte_is_found(
    rig: Rig, origin: FaultOrigin, algorithm: Any, size: int
) -> None:
    data = pattern(size)
    digest = Digest(algorithm=algorithm, value=digest_of(data, algorithm))
    plan = plan_of(planned(origin, "m.bin", data, digest=digest))
    origin.fault("/m.bin", Fault("flip", after=777), times=1)
    assert (await rig.fails(plan)).code == "digest_mismatch"
    result = await rig.fetch(plan)
    assert rig.read("m.bin") == data
    assert result.files[0].digests == (digest,)


async def test_a_flipped_byte_is_found_by_s3_checksums(rig: Rig, origin: FaultOrigin) -> None:
    import base64

    data = pattern(20 * MIB)
    value = base64.b64encode(bytes.fromhex(digest_of(data, "crc64nvme"))).decode()
    file = planned(origin, "m.bin", data)
    body = origin.put("/m.bin", data, etag=file.validator.etag)
    body.headers["x-amz-checksum-crc64nvme"] = value
    body.headers["x-amz-checksum-type"] = "FULL_OBJECT"
    origin.fault("/m.bin", Fault("flip", after=777), times=1)
    assert (await rig.fails(plan_of(file), origin="s3+http://x")).code == "digest_mismatch"
    result = await rig.fetch(plan_of(file), origin="s3+http://x")
    assert [d.algorithm for d in result.files[0].digests] == ["crc64nvme"]
    assert origin.requests("/m.bin", "HEAD") == 2


async def test_an_etag_is_md5_only_where_it_can_be(rig: Rig, origin: FaultOrigin) -> None:
    import hashlib

    data = pattern(20 * MIB)
    right, wrong = hashlib.md5(data).hexdigest(), "0" * 32
    good = planned(origin, "good", data, etag=f'"{right}"')
    bad = planned(origin, "bad", data, etag=f'"{wrong}"')
    kms = planned(origin, "kms", data, etag=f'"{wrong}"')
    origin.put("/kms", data, etag=f'"{wrong}"').headers["x-amz-server-side-encryption"] = "aws:kms"
    result = await rig.fetch(plan_of(good, kms), origin="s3+http://x")
    assert [[d.algorithm for d in f.digests] for f in result.files] == [["md5"], []]
    assert (await rig.fails(plan_of(bad), origin="s3+http://x")).code == "digest_mismatch"
    await rig.fetch(plan_of(bad), origin="http://x")


async def test_ranges_ignored_becomes_one_stream(rig: Rig, origin: FaultOrigin) -> None:
    plan = plan_of(planned(origin, "big.bin", DATA), planned(origin, "b", pattern(10)))
    origin.fault("/big.bin", Fault("ignore_range"))
    await rig.fetch(plan)
    assert rig.read("big.bin") == DATA
    assert "range_ignored" in rig.retries


@pytest.mark.parametrize("kind", ["chunked", "no_length"])
@pytest.mark.parametrize("size", [None, len(DATA)])
async def test_bodies_of_unknown_length(
    rig: Rig, origin: FaultOrigin, kind: str, size: int | None
) -> None:
    file = planned(origin, "big.bin", DATA, size=size, ranges=False)
    origin.fault("/big.bin", Fault(kind))
    result = await rig.fetch(plan_of(file))
    assert rig.read("big.bin") == DATA
    assert result.files[0].size == len(DATA)
    assert len(result.files[0].blocks) == -(-len(DATA) // BLOCK)
    assert bool(rig.grown) == (size is None)


async def test_a_chunked_range(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("*", Fault("chunked"))
    await rig.fetch(plan_of(planned(origin, "big.bin", DATA)))
    assert rig.read("big.bin") == DATA


async def test_a_weak_etag_in_the_plan(rig: Rig, origin: FaultOrigin) -> None:
    data = pattern(20 * MIB)
    file = planned(origin, "w", data, etag='W/"abc"')
    origin.put("/w", data, etag='W/"abc"')
    await rig.fetch(plan_of(file))
    seen = [s for s in origin.seen if s.path == "/w"]
    assert all("if-match" not in s.headers for s in seen)
    origin.put("/w", data, etag='W/"def"')
    assert (await rig.fails(plan_of(file))).code == "origin_changed"


async def test_a_date_is_the_last_resort(rig: Rig, origin: FaultOrigin) -> None:
    data = pattern(20 * MIB)
    body = origin.put("/d", data, etag=None)
    validator = Validator(last_modified=body.modified)
    file = planned(origin, "d", data, etag=None, validator=validator)
    await rig.fetch(plan_of(file))
    assert origin.seen[-1].headers["if-unmodified-since"] == body.modified
    origin.put("/d", data, etag=None).modified = "Fri, 02 Jan 2026 00:00:00 GMT"
    assert (await rig.fails(plan_of(file))).code == "origin_changed"


async def test_what_is_kept_after_a_break_is_not_fetched_again(
    rig: Rig, origin: FaultOrigin
) -> None:
    data = pattern(32 * MIB)
    await rig.mover(part_size=32 * MIB)
    origin.fault("/m", Fault("close", after=25 * MIB), times=1)
    result = await rig.fetch(plan_of(planned(origin, "m", data)))
    assert rig.read("m") == data
    assert [s.headers.get("range") for s in origin.seen] == [
        None,
        f"bytes={24 * MIB}-{32 * MIB - 1}",
    ]
    assert result.fetched_bytes == 33 * MIB


async def test_a_stalled_connection_is_cut(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("/m", Fault("stall", after=MIB), times=1)
    origin.fault("/n", Fault("silent"), times=1)
    await rig.mover(stall_window=3)
    plan = plan_of(planned(origin, "m", DATA), planned(origin, "n", pattern(100)))
    await rig.fetch(plan)
    assert rig.read("m") == DATA
    assert sorted(rig.retries) == ["origin_stalled", "origin_stalled"]


async def test_a_drip_below_the_floor_is_a_stall(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("/m", Fault("drip", chunk=100, seconds=0.05))
    await rig.mover(stall_window=1, stall_floor=50_000, attempts=2)
    error = await rig.fails(plan_of(planned(origin, "m", pattern(MIB))))
    assert error.code == "origin_stalled"


async def test_the_disk_is_not_there(rig: Rig, origin: FaultOrigin) -> None:
    rig.tree.mkdir(parents=True)
    (rig.tree / "m").mkdir()
    error = await rig.fails(plan_of(planned(origin, "m", pattern(100))))
    assert error.code == "disk_failed"


def digest_of(data: bytes, algorithm: str) -> str:
    import hashlib

    from awscrt import checksums

    if algorithm == "crc64nvme":
        return f"{checksums.crc64nvme(data):016x}"
    if algorithm in ("crc32", "crc32c"):
        return f"{getattr(checksums, algorithm)(data):08x}"
    return hashlib.new(algorithm, data).hexdigest()
