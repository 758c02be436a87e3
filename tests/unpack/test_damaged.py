"""Archives that came damaged, lie about their sizes, or are anything at all."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachd.errors import (
    ArchiveInvalid,
    ArchiveLimit,
    ContentError,
)
from tests.unpack.archives import (
    COMPRESSIONS,
    Unpacking,
    member,
    raw_header,
    tar_of,
    zip_of,
)

LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE)


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_truncated_anywhere(unpacking: Unpacking, compression: str) -> None:
    data = COMPRESSIONS[compression](tar_of({"a": os.urandom(5000), "b": os.urandom(5000)}))
    # A plain tar may end without its end marker; every cut within the members is damage.
    end = len(data) if compression != "plain" else 512 * 11 + 5000
    for cut in range(1, end, max(1, end // 60)):
        if compression == "plain" and cut == 512 * 11:
            continue
        unpacking.reset()
        with pytest.raises(ArchiveInvalid, match="not valid"):
            unpacking.run(data[:cut])


# A zstd frame has a checksum only if its maker asked for one.
@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_flipped_bit_in_compressed_data(unpacking: Unpacking, compression: str) -> None:
    data = bytearray(COMPRESSIONS[compression](tar_of({"a": os.urandom(50_000)})))
    data[len(data) // 2] ^= 1
    with pytest.raises(ArchiveInvalid):
        unpacking.run(bytes(data))


def test_damaged_header_is_not_the_end(unpacking: Unpacking) -> None:
    data = bytearray(tar_of({"a": b"x", "b": b"y"}))
    data[1024 + 10] ^= 1
    with pytest.raises(ArchiveInvalid, match="damaged header"):
        unpacking.run(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\0" * 10240, b"hello", b"<html>" * 500, b"\x1f\x8b"])
def test_no_tar_at_all(unpacking: Unpacking, data: bytes) -> None:
    with pytest.raises(ArchiveInvalid, match="The file format is not valid"):
        unpacking.run(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"PK\x05\x06", zip_of({"a": b"b"})[:-30]],
    ids=["empty", "text", "end mark", "cut"],
)
def test_no_zip_at_all(unpacking: Unpacking, data: bytes) -> None:
    with pytest.raises(ArchiveInvalid, match="The file format is not valid"):
        unpacking.run(data, "zip")


def test_the_name_does_not_decide(unpacking: Unpacking) -> None:
    with pytest.raises(ArchiveInvalid, match="zip under a tar's name"):
        unpacking.run(zip_of({"a": b"b"}), "tar")
    with pytest.raises(ArchiveInvalid):
        unpacking.run(tar_of({"a": b"b"}), "zip")


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"-0000000001\0", b"\x80" + b"\xff" * 11, b"zzz", b"77777777777\0"]
)
def test_sizes_that_lie(unpacking: Unpacking, size: bytes) -> None:
    with pytest.raises((ArchiveInvalid, ArchiveLimit)):
        unpacking.run(raw_header(b"x", size) + b"body" + bytes(2000))
    for value in ("-1", "1e9", "9" * 30, " 1", "٣"):
        unpacking.reset()
        record = f" size={value}\n".encode()
        record = str(len(record) + 2).encode() + record
        body = record + bytes(512 - len(record))
        header = raw_header(b"p", b"%011o\0" % len(record), b"x")
        with pytest.raises((ArchiveInvalid, ArchiveLimit)):
            unpacking.run(header + body + raw_header(b"x", b"00000000001\0") + bytes(2048))


def test_long_extended_headers_are_refused_unread(unpacking: Unpacking) -> None:
    for kind in (b"x", b"g", b"L", b"K", b"X"):
        with pytest.raises(ArchiveInvalid, match="extended headers"):
            unpacking.run(raw_header(b"p", b"77777777777\0", kind) + bytes(1024))


def test_endless_extended_headers(unpacking: Unpacking) -> None:
    name = b"n" * 100_000 + b"\0"
    one = raw_header(b"p", b"%011o\0" % len(name), b"L") + name + bytes(-len(name) % 512)
    with pytest.raises(ArchiveInvalid, match="extended headers"):
        unpacking.run(one * 2000)
    with pytest.raises(ArchiveLimit, match="members"):
        unpacking.run(raw_header(b"g", b"00000000000\0", b"g") * 20_000)


def test_pax_header_of_digits_is_quick(unpacking: Unpacking) -> None:
    body = b"1" * 1_000_000
    data = raw_header(b"p", b"%011o\0" % len(body), b"x") + body + bytes(-len(body) % 512)
    with pytest.raises(ArchiveInvalid, match="damaged extended header"):
        unpacking.run(data + bytes(1024))


# --- anything --------------------------------------------------------------------------------

_part = st.sampled_from(["a", "b", "..", ".", "", "outside", "secret", "é", "x" * 300])
_names = st.one_of(
    st.lists(_part, min_size=1, max_size=4).map("/".join),
    st.text(min_size=1, max_size=20).filter(lambda t: "\0" not in t and t.isprintable()),
)
_kinds = st.sampled_from([tarfile.REGTYPE, *LINKS, tarfile.DIRTYPE, tarfile.FIFOTYPE])
_members = st.lists(st.tuples(_names, _kinds, _names, st.binary(max_size=50)), max_size=8)
_quiet = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_quiet
@given(members=_members, format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_any_members(
    unpacking: Unpacking, members: list[tuple[str, bytes, str, bytes]], format: int
) -> None:
    unpacking.reset()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, kind, target, body in members:
            info = member(name, kind, linkname=target if kind in LINKS else "")
            info.size = len(body) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(body))
    try:
        files = unpacking.run(out.getvalue())
    except ContentError:
        pass
    else:
        contents = unpacking.contents()
        assert {f.path for f in files} == set(contents)
        plain = [(n, b) for n, k, _, b in members if k == tarfile.REGTYPE and not n.endswith("/")]
        for name, body in plain:
            assert contents[os.path.normpath(name)] == body
    unpacking.check_harmless()


@_quiet
@given(data=st.data(), kind=st.sampled_from(["tar", "gz", "zip"]))
def test_any_damage(unpacking: Unpacking, data: st.DataObject, kind: str) -> None:
    files = {"a/b": b"x" * 700, "c": b"y"}
    good = zip_of(files) if kind == "zip" else tar_of(files)[:5120]
    if kind == "gz":
        good = COMPRESSIONS["gz"](good)
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    unpacking.reset()
    with contextlib.suppress(ContentError):
        unpacking.run(bytes(damaged), "zip" if kind == "zip" else "tar")
    unpacking.check_harmless()
