"""What origins claim of their files, against bytes with one wrong byte in the middle."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachd.fetch.claims import Composite, claim_to_check, equal_parts
from cachd.fetch.readback import start_sum
from cachd.fetch.readings import Reading
from cachd.model import BLOCK_SIZE, DIGEST_DIGITS, Digest, PartDone
from tests.fetch.conftest import MIB, Rig, plan_of, planned
from tests.fetch.test_faults import digest_of
from tests.origins.fault import Fault, FaultOrigin, pattern

S3 = "s3+http://x"
PART = 5 * MIB
DATA = pattern(3 * PART + 12345)
EVEN = (PART, PART, PART, 12345)
ODD = (PART + 1, PART, PART - 1, 12345)


def b64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def composite(data: bytes, sizes: tuple[int, ...], algorithm: str) -> str:
    """In hex, by hashlib and awscrt alone."""
    raw, at = b"", 0
    for size in sizes:
        raw += bytes.fromhex(digest_of(data[at : at + size], algorithm))
        at += size
    return digest_of(raw, algorithm)


# --- the sums themselves ----------------------------------------------------------------------


@given(
    data=st.binary(min_size=1, max_size=4000),
    cuts=st.lists(st.integers(1, 3999), max_size=6),
    chunk=st.integers(1, 700),
    algorithm=st.sampled_from(["md5", "sha256", "sha1", "crc32", "crc32c", "crc64nvme"]),
)
def test_sums_of_parts(data: bytes, cuts: list[int], chunk: int, algorithm: str) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    sizes = tuple(b - a for a, b in itertools.pairwise(edges))
    total = start_sum(algorithm, len(data), sizes)
    for at in range(0, len(data), chunk):
        total.update(memoryview(data)[at : at + chunk])
    assert total.hexdigest() == composite(data, sizes, algorithm)


@given(data=st.binary(max_size=300), algorithm=st.sampled_from(list(DIGEST_DIGITS)))
def test_sums_of_files(data: bytes, algorithm: str) -> None:
    total = start_sum(algorithm, len(data))
    total.update(data)
    value = total.hexdigest()
    assert len(value) == DIGEST_DIGITS[algorithm]
    if algorithm == "git-sha1":
        assert value == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    else:
        assert value == digest_of(data, algorithm)


@given(size=st.integers(1, 10**12), first=st.integers(0, 10**10), count=st.integers(1, 10_000))
def test_equal_parts_make_the_file(size: int, first: int, count: int) -> None:
    parts = equal_parts(size, first, count)
    if parts is None:
        assert first == 0 or -(-size // first) != count
    else:
        assert (sum(parts), len(parts)) == (size, count)
        assert min(parts) > 0
        assert set(parts[:-1]) <= {first}


# --- claims of origins, through real workers --------------------------------------------------


async def check(rig: Rig, origin: FaultOrigin, file: Any, verified: Digest | None) -> None:
    """A flipped byte is found if the file can be ``verified``; else nobody can tell."""
    origin.fault("/m.bin", Fault("flip", after=777), times=1, skip=1)
    if verified is not None:
        error = await rig.fails(plan_of(file), origin=S3)
        assert error.code == "digest_mismatch"
        assert error.detail["path"] == "m.bin"
        assert error.detail["expected"] == str(verified)
        rig.journal.clear()
    origin.clear_faults()
    result = await rig.fetch(plan_of(file), origin=S3)
    assert result.files[0].digests == ((verified,) if verified else ())


@pytest.mark.parametrize("sizes", [EVEN, ODD])
async def test_multipart_etags(rig: Rig, origin: FaultOrigin, sizes: tuple[int, ...]) -> None:
    value = f"{composite(DATA, sizes, 'md5')}-{len(sizes)}"
    file = planned(origin, "m.bin", DATA, etag=f'"{value}"')
    origin.put("/m.bin", DATA, etag=f'"{value}"').parts = sizes
    await check(rig, origin, file, Digest(algorithm="md5-multipart", value=value))


async def test_a_multipart_etag_without_sizes_is_opaque(rig: Rig, origin: FaultOrigin) -> None:
    value = f"{composite(DATA, EVEN, 'md5')}-{len(EVEN)}"
    file = planned(origin, "m.bin", DATA, etag=f'"{value}"')
    await check(rig, origin, file, None)


async def test_etags_are_not_compared_where_the_settings_say_so(
    rig: Rig, origin: FaultOrigin
) -> None:
    small = planned(origin, "small.bin", b"1", etag=f'"{"0" * 32}"')
    file = planned(origin, "m.bin", DATA, etag=f'"{"0" * 32}-{len(EVEN)}"')
    origin.put("/m.bin", DATA, etag=file.validator.etag).parts = EVEN
    result = await rig.fetch(plan_of(file, small), origin=S3, etags=False)
    assert [done.digests for done in result.files] == [(), ()]
    assert (await rig.fails(plan_of(small), origin=S3)).code == "digest_mismatch"


async def test_a_multipart_etag_of_an_encrypted_object_is_opaque(
    rig: Rig, origin: FaultOrigin
) -> None:
    file = planned(origin, "m.bin", DATA, etag=f'"{"0" * 32}-{len(EVEN)}"')
    body = origin.put("/m.bin", DATA, etag=file.validator.etag)
    body.parts, body.headers["x-amz-server-side-encryption"] = EVEN, "aws:kms:dsse"
    await check(rig, origin, file, None)


@pytest.mark.parametrize("sizes", [EVEN, ODD])
@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "crc32", "crc32c"])
async def test_composite_checksums(
    rig: Rig, origin: FaultOrigin, algorithm: str, sizes: tuple[int, ...]
) -> None:
    value = composite(DATA, sizes, algorithm)
    file = planned(origin, "m.bin", DATA)
    body = origin.put("/m.bin", DATA, etag=file.validator.etag)
    body.parts = sizes
    body.headers[f"x-amz-checksum-{algorithm}"] = f"{b64(value)}-{len(sizes)}"
    body.headers["x-amz-checksum-type"] = "COMPOSITE"
    verified = Digest(algorithm=f"{algorithm}-multipart", value=f"{value}-{len(sizes)}")
    await check(rig, origin, file, verified)


async def test_a_small_composite(rig: Rig, origin: FaultOrigin) -> None:
    data, sizes = DATA[: PART + 7], (PART, 7)
    value = composite(data, sizes, "crc32c")
    file = planned(origin, "m.bin", data)
    body = origin.put("/m.bin", data, etag=file.validator.etag)
    body.parts, body.headers["x-amz-checksum-crc32c"] = sizes, f"{b64(value)}-2"
    result = await rig.fetch(plan_of(file), origin=S3)
    verified = Digest(algorithm="crc32c-multipart", value=f"{value}-2")
    assert result.files[0].digests == (verified,)
    origin.fault("/m.bin", Fault("flip", after=777))
    assert (await rig.fails(plan_of(file), origin=S3)).code == "digest_mismatch"


def archive_of_many_parts(origin: FaultOrigin) -> tuple[bytes, Any]:
    """A tar, uploaded in parts of which no guess tells the sizes; and the file as it is planned."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("w.bin")
        member.size = len(DATA)
        tar.addfile(member, io.BytesIO(DATA))
    data = packed.getvalue()
    sizes = (PART, PART, len(data) - 2 * PART)
    file = planned(origin, "m.tar", data, etag=f'"{composite(data, sizes, "md5")}-3"')
    origin.put("/m.tar", data, etag=file.validator.etag).parts = sizes
    return data, file


async def test_an_archive_of_many_parts(rig: Rig, origin: FaultOrigin) -> None:
    data, file = archive_of_many_parts(origin)
    result = await rig.fetch(plan_of(file, unpack="tar"), origin=S3)
    assert result.sums["m.tar"]["sha256"] == digest_of(data, "sha256")
    assert rig.read("w.bin") == DATA


async def test_wrong_bytes_in_an_archive_of_many_parts(rig: Rig, origin: FaultOrigin) -> None:
    _, file = archive_of_many_parts(origin)
    origin.fault("/m.tar", Fault("flip", after=777))
    error = await rig.fails(plan_of(file, unpack="tar"), origin=S3)
    assert error.code == "digest_mismatch"


def http_claims(data: bytes) -> dict[str, tuple[dict[str, str], str]]:
    sha256, md5 = (digest_of(data, name) for name in ("sha256", "md5"))
    crc = digest_of(data, "crc32c")
    return {
        "repr": ({"Repr-Digest": f"sha-512=:AAAA:, sha-256=:{b64(sha256)}:"}, "sha256"),
        "rfc3230": ({"Digest": f"UNIXsum=3, SHA-256={b64(sha256)}"}, "sha256"),
        "rfc3230-md5": ({"Digest": f"md5={b64(md5)}"}, "md5"),
        "goog": ({"x-goog-hash": f"crc32c={b64(crc)},md5={b64(md5)}"}, "crc32c"),
        "azure": ({"x-ms-blob-content-md5": b64(md5)}, "md5"),
    }


@pytest.mark.parametrize("size", [100_000, 20 * MIB + 7])
@pytest.mark.parametrize("kind", list(http_claims(b"")))
async def test_digests_of_web_servers(rig: Rig, origin: FaultOrigin, kind: str, size: int) -> None:
    data = pattern(size)
    headers, algorithm = http_claims(data)[kind]
    file = planned(origin, "m.bin", data)
    origin.put("/m.bin", data, etag=file.validator.etag).headers.update(headers)
    origin.fault("/m.bin", Fault("flip", after=777), times=1)
    error = await rig.fails(plan_of(file))
    assert error.code == "digest_mismatch"
    rig.journal.clear()
    result = await rig.fetch(plan_of(file))
    digest = Digest(algorithm=algorithm, value=digest_of(data, algorithm))
    assert result.files[0].digests == (digest,)


@pytest.mark.parametrize("name", ["Content-MD5", "Content-Digest"])
async def test_digests_of_a_body_are_those_of_a_file_only_if_it_is_the_file(
    rig: Rig, origin: FaultOrigin, name: str
) -> None:
    for size in (100_000, 20 * MIB + 7):
        data = pattern(size)
        algorithm = "md5" if name == "Content-MD5" else "sha256"
        value = b64(digest_of(data, algorithm))
        file = planned(origin, "m.bin", data)
        body = origin.put("/m.bin", data, etag=file.validator.etag)
        body.headers[name] = value if algorithm == "md5" else f"sha-256=:{value}:"
        result = await rig.fetch(plan_of(file))
        assert [d.algorithm for d in result.files[0].digests] == (
            [algorithm] if size == 100_000 else []
        )


async def test_a_hash_of_what_is_stored_compressed_says_nothing(
    rig: Rig, origin: FaultOrigin
) -> None:
    data = pattern(1000)
    file = planned(origin, "m.bin", data, etag='"' + "0" * 32 + '"')
    origin.put("/m.bin", data, etag=file.validator.etag).headers.update(
        {"x-goog-hash": f"crc32c={b64('0' * 8)}", "x-goog-stored-content-encoding": "gzip"}
    )
    # Nor is the ETag of that service an MD5.
    assert (await rig.fetch(plan_of(file), origin=S3)).files[0].digests == ()


# --- a fetch that ended between its last part and its verification -----------------------------


@pytest.mark.parametrize("is_flipped", [False, True])
async def test_what_the_journal_completes_is_still_verified(
    rig: Rig, origin: FaultOrigin, is_flipped: bool
) -> None:
    data = pattern(20 * MIB)
    file = planned(origin, "m.bin", data, etag=f'"{digest_of(data, "md5")}"')
    if is_flipped:
        origin.fault("/m.bin", Fault("flip", after=777), times=1)
        await rig.fails(plan_of(file), origin=S3)
    else:
        await rig.fetch(plan_of(file), origin=S3)
    done = rig.done()
    assert sum(part.length for part in done["m.bin"]) == len(data)
    sent = origin.bytes_sent()
    if is_flipped:
        error = await rig.fails(plan_of(file), origin=S3, done=done)
        assert error.code == "digest_mismatch"
    else:
        result = await rig.fetch(plan_of(file), origin=S3, done=done)
        assert [d.algorithm for d in result.files[0].digests] == ["md5"]
    assert origin.bytes_sent() == sent


async def test_a_question_that_finds_the_origin_busy_is_asked_again(
    rig: Rig, origin: FaultOrigin
) -> None:
    value = digest_of(DATA, "crc64nvme")
    file = planned(origin, "m.bin", DATA)
    origin.put("/m.bin", DATA, etag=file.validator.etag).headers["x-amz-checksum-crc64nvme"] = b64(
        value
    )
    origin.busy_heads = 2
    result = await rig.fetch(plan_of(file), origin=S3)
    assert result.files[0].digests == (Digest(algorithm="crc64nvme", value=value),)


async def test_linked_files_are_not_asked_for(rig: Rig, origin: FaultOrigin) -> None:
    data = pattern(1000)
    file = planned(origin, "m.bin", data)
    rig.tree.mkdir(parents=True)
    (rig.tree / "m.bin").write_bytes(data)
    part = PartDone(path="m.bin", offset=0, length=1000, blocks=(digest_of(data, "crc64nvme"),))
    await rig.fetch(plan_of(file), origin=S3, done={"m.bin": [part]}, linked={"m.bin"})
    assert origin.seen == []


# --- digests that nobody claims ---------------------------------------------------------------


async def test_digests_of_a_tree_that_is_there(rig: Rig) -> None:
    rig.tree.mkdir(parents=True)
    files = {f"f{n}": pattern(n * 7001, n) for n in range(300)}
    for name, data in files.items():
        (rig.tree / name).write_bytes(data)
    mover = await rig.mover(workers=2)
    readings = [Reading(name, len(data), ("sha256", "md5")) for name, data in files.items()]
    found = await mover.read_digests(rig.tree, readings)
    for name, data in files.items():
        assert found[name] == {n: digest_of(data, n) for n in ("sha256", "md5")}
    assert mover.describe()["waiting"] == 0


async def test_what_is_wanted_besides_is_computed_along(rig: Rig, origin: FaultOrigin) -> None:
    data = pattern(2 * BLOCK_SIZE + 5)
    file = planned(origin, "m.bin", data)
    result = await rig.fetch(plan_of(file), also=lambda path: {"sha256", "git-sha1"})
    assert result.sums["m.bin"]["sha256"] == digest_of(data, "sha256")
    assert result.files[0].digests == ()


@settings(max_examples=30)
@given(count=st.integers(0, 20_000), digits=st.integers(30, 34))
def test_etags_that_look_like_one(count: int, digits: int) -> None:
    from cachd.fetch.claims import Facts

    facts = Facts(etag=f'"{"a" * digits}-{count}"')
    claim = claim_to_check(None, facts, takes_etags=True)
    if digits == 32 and 0 < count <= 10_000:
        assert claim == Composite(algorithm="md5", value="a" * 32, count=count)
    else:
        assert claim is None
