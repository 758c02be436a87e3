"""Archives that people really make."""

from __future__ import annotations

import os
import random
import stat
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from awscrt import checksums

from cachd.errors import Cancelled, NoSpace
from cachd.fetch.unpack import unpack_archive
from cachd.model import BLOCK_SIZE
from tests.unpack.archives import (
    COMPRESSIONS,
    LIMITS,
    Unpacking,
    member,
    tar,
    tar_of,
    zip_entry,
    zip_of,
)

FILES = {
    "config.json": b"{}",
    "empty": b"",
    "deep/er/weights.bin": random.Random(1).randbytes(3_000_000),
    "deep/" + "n" * 200 + "/" + "m" * 200: b"long",
    "ünïcode 名 %20 \\ \n.txt": b"u",
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_round_trip(unpacking: Unpacking, compression: str, format: int) -> None:
    files = unpacking.run(COMPRESSIONS[compression](tar_of(FILES, format)))
    assert unpacking.contents() == FILES
    assert [f.path for f in files] == sorted(FILES)
    assert {f.path: f.size for f in files} == {name: len(body) for name, body in FILES.items()}
    assert unpacking.reported == sum(map(len, FILES.values()))


def test_ustar_prefix_and_leading_dot(unpacking: Unpacking) -> None:
    files = {"./" + "d" * 90 + "/" + "f" * 90: b"x", "./y": b"y"}
    directory = (member("./", tarfile.DIRTYPE), b"")
    rest = [(member(name), body) for name, body in files.items()]
    unpacking.run(tar(directory, *rest, format=tarfile.USTAR_FORMAT))
    assert unpacking.contents() == {name[2:]: body for name, body in files.items()}


def test_concatenated_gzip_members_and_zero_padding(unpacking: Unpacking) -> None:
    data = tar_of(FILES)
    middle = len(data) // 2
    gz = COMPRESSIONS["gz"]
    unpacking.run(gz(data[:middle]) + gz(data[middle:]) + bytes(100))
    assert unpacking.contents() == FILES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip_round_trip(unpacking: Unpacking, method: int) -> None:
    files = unpacking.run(zip_of({**FILES, "folder/": b""}, method), "zip")
    assert unpacking.contents() == FILES
    assert [f.path for f in files] == sorted(FILES)


def test_block_checksums(unpacking: Unpacking) -> None:
    body = random.Random(2).randbytes(2 * BLOCK_SIZE + 5)
    exact = body[:BLOCK_SIZE]
    by_path = {f.path: f for f in unpacking.run(tar_of({"a": body, "b": exact, "c": b""}))}
    for path, whole in (("a", body), ("b", exact), ("c", b"")):
        blocks = [whole[i : i + BLOCK_SIZE] for i in range(0, len(whole), BLOCK_SIZE)]
        assert by_path[path].blocks == tuple(f"{checksums.crc64nvme(b):016x}" for b in blocks)


def test_modes_are_two(unpacking: Unpacking) -> None:
    old = os.umask(0o077)
    try:
        unpacking.run(
            tar((member("d/run", mode=0o4755), b"x"), (member("d/data", mode=0o666), b"y"))
        )
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in unpacking.tree.rglob("*")}
    assert modes == {"d": 0o755, "run": 0o755, "data": 0o644}


def test_links_become_hard_links(unpacking: Unpacking) -> None:
    files = unpacking.run(
        tar(
            (member("snap/w", tarfile.SYMTYPE, linkname="../blobs/1"), b""),
            (member("chain", tarfile.SYMTYPE, linkname="./snap/w"), b""),
            (member("blobs/1"), b"weights"),
            (member("hard", tarfile.LNKTYPE, linkname="./blobs/1"), b""),
        )
    )
    assert unpacking.contents() == dict.fromkeys(["snap/w", "chain", "blobs/1", "hard"], b"weights")
    assert len({f.blocks for f in files}) == 1
    assert (unpacking.tree / "blobs/1").stat().st_nlink == 4
    unpacking.check_harmless()


def test_zip_symlink_becomes_hard_link(unpacking: Unpacking) -> None:
    import io

    data = io.BytesIO(zip_entry("sub/link", b"../file", stat.S_IFLNK | 0o777))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("file", b"body")
    unpacking.run(data.getvalue(), "zip")
    assert unpacking.contents() == {"sub/link": b"body", "file": b"body"}


def test_links_are_copied_where_a_file_system_has_none(
    unpacking: Unpacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    unpacking.run(
        tar((member("a", mode=0o755), b"x" * 10), (member("b", tarfile.LNKTYPE, linkname="a"), b""))
    )
    assert unpacking.contents() == {"a": b"x" * 10, "b": b"x" * 10}
    assert (unpacking.tree / "b").stat().st_mode & 0o100


def test_space_is_asked_for_before_it_is_written(unpacking: Unpacking) -> None:
    room = 5_000_000

    def grow(more: int) -> None:
        nonlocal room
        on_disk = sum(p.stat().st_size for p in unpacking.tree.rglob("*") if p.is_file())
        assert on_disk <= 5_000_000 - room
        if more > room:
            raise NoSpace("full")
        room -= more

    archive = unpacking.folder / "archive"
    archive.write_bytes(tar_of({str(i): bytes(1_000_000) for i in range(10)}))
    with pytest.raises(NoSpace):
        unpack_archive(
            archive, unpacking.tree, "tar", "a", LIMITS, grow, lambda _: None, lambda: False
        )
    written = sum(p.stat().st_size for p in unpacking.tree.rglob("*") if p.is_file())
    assert written <= 5_000_000 - room


def test_growth_comes_in_bounded_steps(unpacking: Unpacking) -> None:
    body = bytes(100_000_000)
    unpacking.run(tar_of({"zeros": body, "more": b"x"}))
    assert sum(unpacking.grown) >= len(body)
    assert max(unpacking.grown) <= 64 * 1024 * 1024
    assert sum(unpacking.grown) < len(body) + 64 * 1024 * 1024


def test_cancelled(unpacking: Unpacking) -> None:
    with pytest.raises(Cancelled):
        unpacking.run(
            tar_of({"a": bytes(50_000_000)}), cancelled=lambda: unpacking.reported > 10_000_000
        )
    assert unpacking.reported < 20_000_000


def test_from_a_pipe(unpacking: Unpacking) -> None:
    read_end, write_end = os.pipe()

    def feed() -> None:
        with open(write_end, "wb") as file:
            file.write(COMPRESSIONS["gz"](tar_of(FILES)))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        unpack_archive(
            Path(f"/proc/self/fd/{read_end}"), unpacking.tree, "tar", "piped", LIMITS,
            lambda _: None, lambda _: None, lambda: False,
        )  # fmt: skip
    finally:
        os.close(read_end)
        thread.join(60)
    assert unpacking.contents() == FILES
