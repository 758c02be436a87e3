"""Archives that somebody made to do harm: names and links that lead elsewhere, bombs."""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
import zlib

import pytest

from cachd.errors import (
    ArchiveInvalid,
    ArchiveLimit,
    ContentError,
    PathUnsafe,
)
from cachd.fetch.unpack import UnpackLimits
from tests.unpack.archives import (
    COMPRESSIONS,
    Unpacking,
    member,
    raw_header,
    tar,
    tar_of,
    zip_entry,
    zip_of,
)

SYM, LNK = tarfile.SYMTYPE, tarfile.LNKTYPE
BAD_NAMES = [
    "../outside/x",
    "a/../../outside/x",
    "/tmp/x",
    "a//b",
    "a/./b",
    "..",
    ".",
    "a/..",
    "n" * 256,
    "/".join(["d" * 200] * 21),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unsafe_names_in_a_tar(unpacking: Unpacking, name: str) -> None:
    with pytest.raises(PathUnsafe):
        unpacking.run(tar((member(name), b"x")))
    unpacking.check_harmless()


@pytest.mark.parametrize("name", [*BAD_NAMES, "nul\0.txt"])
def test_unsafe_names_in_a_zip(unpacking: Unpacking, name: str) -> None:
    placeholder = "q" * len(name.encode())
    data = zip_of({placeholder: b"x"}).replace(placeholder.encode(), name.encode())
    with pytest.raises(PathUnsafe):
        unpacking.run(data, "zip")
    unpacking.check_harmless()


def test_name_that_is_not_utf8(unpacking: Unpacking) -> None:
    with pytest.raises(PathUnsafe, match="UTF-8"):
        unpacking.run(raw_header(b"caf\xe9", b"00000000000\0") + bytes(1024))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"D", b"z"])
def test_special_members(unpacking: Unpacking, kind: bytes) -> None:
    with pytest.raises(ArchiveInvalid, match="neither a file"):
        unpacking.run(tar((member("x", kind), b"")))
    assert not list(unpacking.tree.iterdir())


def test_sparse_members(unpacking: Unpacking) -> None:
    with pytest.raises(ArchiveInvalid, match="sparse"):
        unpacking.run(tar((member("x", tarfile.GNUTYPE_SPARSE), b"")))
    info = member("x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    with pytest.raises(ArchiveInvalid, match="sparse"):
        unpacking.run(tar((info, b"1\n0\n")))


@pytest.mark.parametrize(
    "links",
    [
        [("l", SYM, "../outside/secret")],
        [("l", SYM, "/etc/passwd")],
        [("l", LNK, "../outside/secret")],
        [("l", LNK, "/etc/passwd")],
        [("l", SYM, "nowhere")],
        [("l", SYM, "")],
        [("l", SYM, "l")],
        [("a", SYM, "b"), ("b", SYM, "a")],
        [("l", SYM, "d")],
        [("d/l", SYM, "../../outside/secret")],
        [("l", SYM, ".")],
    ],
)
def test_links_that_lead_elsewhere(
    unpacking: Unpacking, links: list[tuple[str, bytes, str]]
) -> None:
    members = [(member(name, kind, linkname=target), b"") for name, kind, target in links]
    with pytest.raises(ArchiveInvalid, match=r"leads to no regular member|damaged"):
        unpacking.run(tar((member("d/f"), b"x"), *members))
    unpacking.check_harmless()


def test_chain_of_long_links_as_in_cve_2025_4517(unpacking: Unpacking) -> None:
    """Directories and links so long that realpath gives up, then an escape through them."""
    long = "d" * 247
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    path = ""
    for letter in "abcdefghijklmnop":
        members.append((member(path + long, tarfile.DIRTYPE), b""))
        members.append((member(path + letter, SYM, linkname=long), b""))
        path += long + "/"
    chain = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    members.append((member(chain, SYM, linkname="../" * 16), b""))
    members.append((member("escape", SYM, linkname=chain + "/../../outside"), b""))
    members.append((member("flag", LNK, linkname="escape/secret"), b""))
    members.append((member("flag"), b"pwned"))
    members.append((member("escape/new"), b"pwned"))
    with pytest.raises(ContentError):
        unpacking.run(tar(*members))
    unpacking.check_harmless()


@pytest.mark.parametrize("target", ["../outside", "/tmp", "d", "."])
def test_file_written_through_a_linked_directory(unpacking: Unpacking, target: str) -> None:
    link = member("link", SYM, linkname=target)
    for members in (
        [(link, b""), (member("link/new"), b"x")],
        [(member("link/new"), b"x"), (link, b"")],
    ):
        unpacking.reset()
        with pytest.raises(ArchiveInvalid):
            unpacking.run(tar((member("d/f"), b""), *members))
        unpacking.check_harmless()


def test_a_link_planted_in_the_tree_is_not_followed(unpacking: Unpacking) -> None:
    (unpacking.tree / "d").symlink_to(unpacking.outside)
    (unpacking.tree / "secret").symlink_to(unpacking.outside / "secret")
    for name in ("d/x", "secret"):
        with pytest.raises(ArchiveInvalid):
            unpacking.run(tar_of({name: b"x"}))
    assert (unpacking.outside / "secret").read_bytes() == b"secret"
    assert len(list(unpacking.outside.iterdir())) == 1


@pytest.mark.parametrize(
    "members",
    [
        [("x", tarfile.REGTYPE, ""), ("x", tarfile.REGTYPE, "")],
        [("x", tarfile.REGTYPE, ""), ("./x", tarfile.REGTYPE, "")],
        [("x", tarfile.REGTYPE, ""), ("x/y", tarfile.REGTYPE, "")],
        [("x/y", tarfile.REGTYPE, ""), ("x", tarfile.REGTYPE, "")],
        [("x", tarfile.REGTYPE, ""), ("l", SYM, "x"), ("l", SYM, "x")],
        [("x", tarfile.REGTYPE, ""), ("l", LNK, "x"), ("l", tarfile.REGTYPE, "")],
        [("x", tarfile.REGTYPE, ""), ("x", LNK, "x")],
    ],
)
def test_two_members_in_one_place(
    unpacking: Unpacking, members: list[tuple[str, bytes, str]]
) -> None:
    with pytest.raises(ArchiveInvalid):
        unpacking.run(tar(*((member(n, k, linkname=t), b"") for n, k, t in members)))


# --- bombs -----------------------------------------------------------------------------------


def test_too_many_bytes(unpacking: Unpacking) -> None:
    limits = UnpackLimits(max_bytes=1000, max_members=100, max_ratio=1e9)
    with pytest.raises(ArchiveLimit, match="1000 bytes"):
        unpacking.run(tar_of({"a": b"x" * 600, "b": b"x" * 600}), limits=limits)
    unpacking.reset()
    with pytest.raises(ArchiveLimit, match="1000 bytes"):
        unpacking.run(zip_of({"a": b"x" * 600, "b": b"x" * 600}), "zip", limits)


def test_too_many_members(unpacking: Unpacking) -> None:
    limits = UnpackLimits(max_bytes=1000, max_members=3, max_ratio=1e9)
    files = {str(i): b"" for i in range(4)}
    with pytest.raises(ArchiveLimit, match="3 members"):
        unpacking.run(tar_of(files), limits=limits)
    unpacking.reset()
    with pytest.raises(ArchiveLimit, match="3 members"):
        unpacking.run(zip_of(files), "zip", limits)


@pytest.mark.parametrize("claimed", [None, 1])
def test_members_are_judged_before_the_directory_is_parsed(
    unpacking: Unpacking, monkeypatch: pytest.MonkeyPatch, claimed: int | None
) -> None:
    """Whatever the end record claims: zipfile makes an object of each entry that it finds."""
    data = zip_of({str(i): b"" for i in range(4)})
    if claimed is not None:
        data = data[:-14] + struct.pack("<2H", claimed, claimed) + data[-10:]
    monkeypatch.setattr(zipfile, "ZipFile", None)
    limits = UnpackLimits(max_bytes=1000, max_members=3, max_ratio=1e9)
    with pytest.raises(ArchiveLimit, match="3 members"):
        unpacking.run(data, "zip", limits)


def test_members_of_a_zip64_are_judged_too(unpacking: Unpacking) -> None:
    data = zip_of({"a": b"b"})
    at = len(data) - 22
    end = struct.unpack("<4s4H2LH", data[at:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 9, 9, end[5], end[6])
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    limits = UnpackLimits(max_bytes=1000, max_members=8, max_ratio=1e9)
    with pytest.raises(ArchiveLimit, match="8 members"):
        unpacking.run(data[:at] + record + locator + last, "zip", limits)


@pytest.mark.parametrize("compression", [c for c in COMPRESSIONS if c != "plain"])
def test_bomb_in_a_tar(unpacking: Unpacking, compression: str) -> None:
    zeros = bytes(1024 * 1024)
    info = member("zeros")
    info.size = 90 * len(zeros)
    bomb = COMPRESSIONS[compression](info.tobuf() + zeros * 90 + bytes(1024))
    with pytest.raises(ArchiveLimit, match="times its size"):
        unpacking.run(bomb)
    assert unpacking.reported <= 64 * 1024 * 1024


def test_bomb_behind_the_end(unpacking: Unpacking) -> None:
    bomb = COMPRESSIONS["gz"](tar_of({"a": b"x"}) + bytes(100 * 1024 * 1024))
    with pytest.raises(ArchiveLimit, match="times its size"):
        unpacking.run(bomb)


def test_bomb_in_a_zip_with_overlapping_members(unpacking: Unpacking) -> None:
    """Many directory entries share one body (David Fifield, "A better zip bomb", 2019)."""
    body = bytes(4 * 1024 * 1024)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(body) + packer.flush()
    crc = zlib.crc32(body)
    local = struct.pack(
        "<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(packed), len(body), 1, 0
    )
    data = local + b"a" + packed
    directory = b""
    for number in range(1000):
        name = f"{number:05}".encode()
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(packed), len(body),
            len(name), 0, 0, 0, 0, 0, 0,
        ) + name  # fmt: skip
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1000, 1000, len(directory), len(data), 0)
    with pytest.raises((ArchiveLimit, ArchiveInvalid)):
        unpacking.run(data + directory + end, "zip")
    assert unpacking.reported <= 64 * 1024 * 1024


def test_xz_that_wants_all_memory(unpacking: Unpacking) -> None:
    import lzma

    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 * 1024 * 1024, "preset": 0}]
    try:
        data = lzma.compress(tar_of({"a": b"x"}), filters=filters)
    except MemoryError:
        pytest.skip("not enough memory to make it")
    with pytest.raises(ArchiveInvalid):
        unpacking.run(data)


# --- zip -------------------------------------------------------------------------------------


def test_encrypted_zip(unpacking: Unpacking) -> None:
    data = bytearray(zip_of({"a": b"b"}))
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveInvalid, match="encrypted"):
        unpacking.run(bytes(data), "zip")


def test_lzma_zip(unpacking: Unpacking) -> None:
    with pytest.raises(ArchiveInvalid, match="method 14"):
        unpacking.run(zip_of({"a": b"b"}, zipfile.ZIP_LZMA), "zip")


@pytest.mark.parametrize("target", [b"../outside/secret", b"/etc/passwd", b"nowhere"])
def test_zip_links(unpacking: Unpacking, target: bytes) -> None:
    with pytest.raises(ArchiveInvalid, match="leads to no regular member"):
        unpacking.run(zip_entry("l", target, stat.S_IFLNK | 0o777), "zip")
    unpacking.check_harmless()


def test_zip_devices(unpacking: Unpacking) -> None:
    with pytest.raises(ArchiveInvalid, match="neither"):
        unpacking.run(zip_entry("l", b"", stat.S_IFCHR | 0o666), "zip")


def test_zip_whose_sizes_lie(unpacking: Unpacking) -> None:
    data = zip_of({"a": b"b" * 100})
    at = data.rindex(b"PK\x01\x02") + 24
    for size in (50, 200, 0xFFFFFFF0):
        unpacking.reset()
        with pytest.raises((ArchiveInvalid, ArchiveLimit)):
            unpacking.run(data[:at] + struct.pack("<L", size) + data[at + 4 :], "zip")


def test_zip_directory_of_absurd_size(unpacking: Unpacking) -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 0xFFFFFFF0, 0, 0)
    with pytest.raises(ArchiveLimit, match="directory"):
        unpacking.run(zip_of({"a": b"b"}) + end, "zip")
