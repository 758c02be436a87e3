"""Packs that git made, and packs that are damaged."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import pytest

from cachd.errors import ArchiveInvalid, CachdError, ContentError, OriginChanged, OriginError
from cachd.sources import git_pack, git_pkt
from cachd.sources.git_pack import BLOB, COMMIT, TAG, TREE, Pack
from cachd.sources.git_pkt import PackStream, lines_of
from cachd.sources.git_tree import leaves_of, pointer_of, resolve_link
from tests.servers.git import git

ALL = frozenset({COMMIT, TREE, BLOB, TAG})


def framed(pack: bytes, frame: int = 1000) -> bytes:
    """As in an answer to fetch."""
    pieces = [b"0011shallow-info\n", b"0001", b"000dpackfile\n"]
    for at in range(0, len(pack), frame):
        piece = pack[at : at + frame]
        pieces.append(b"%04x\1" % (len(piece) + 5) + piece)
        pieces.append(b"000c\2working")
    return b"".join([*pieces, b"0000"])


def opened(answer: bytes, scratch: list[int] | None = None) -> Pack:
    def make(size: int) -> BinaryIO:
        if scratch is not None:
            scratch.append(size)
        return io.BytesIO()

    def ignore(_: int) -> None:
        pass

    stream = PackStream(io.BytesIO(answer))
    return Pack(stream, count=ignore, scratch=make, check_number=ignore)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are alike, so that git makes deltas of deltas."""
    folder = tmp_path_factory.mktemp("packs")
    chance = random.Random(1)
    lines = [b"%d %d\n" % (n, chance.getrandbits(64)) for n in range(3000)]
    git(folder, "init", "-q", "-b", "main", ".", home=folder)
    for number in range(12):
        lines[chance.randrange(len(lines))] = b"changed %d\n" % number
        (folder / f"file{number}").write_bytes(b"".join(lines))
    (folder / "empty").touch()
    (folder / "one").mkdir()
    (folder / "one" / "random").write_bytes(chance.randbytes(200_000))
    git(folder, "add", "-A", home=folder)
    git(folder, "commit", "-q", "-m", "x", home=folder)
    git(folder, "tag", "-a", "-m", "y", "v1", home=folder)
    return folder


def packed(folder: Path, *options: str) -> bytes:
    listed = git(folder, "rev-list", "--objects", "--all", home=folder)
    names = "".join(line.split()[0] + "\n" for line in listed.splitlines())
    return subprocess.run(
        ["git", "pack-objects", "--stdout", "-q", "--depth=20", "--window=20", *options],
        cwd=folder,
        input=names.encode(),
        capture_output=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def pack(repository: Path) -> bytes:
    return packed(repository, "--delta-base-offset")


def contents(found: Pack, kinds: Iterable[int] = ALL) -> dict[str, bytes]:
    return {
        entry.name.hex(): content.read_at(0, content.size)
        for entry, _, content in found.walk(frozenset(kinds), with_plain=True)
    }


@pytest.mark.parametrize("options", [["--delta-base-offset"], []], ids=["offsets", "names"])
@pytest.mark.parametrize("in_memory", [0, 32 * 1024 * 1024], ids=["scratch", "memory"])
def test_what_git_packs_is_read(
    repository: Path, options: list[str], in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_pack, "_IN_MEMORY", in_memory)
    scratch: list[int] = []
    found = opened(framed(packed(repository, *options)), scratch)
    assert {e.kind for e in found.entries} & {6, 7} == ({6} if options else {7})
    read = contents(found)
    for name, data in read.items():
        kind = git(repository, "cat-file", "-t", name, home=repository)
        raw = subprocess.run(
            ["git", "cat-file", kind, name], cwd=repository, capture_output=True, check=True
        ).stdout
        assert data == raw
    assert len(read) == len(found.entries) == 18
    assert bool(scratch) == (in_memory == 0)
    # All that was held was let go.
    assert found._held == 0


def test_a_tree_is_walked(repository: Path, pack: bytes) -> None:
    commit = git(repository, "rev-parse", "HEAD", home=repository)
    objects = opened(framed(pack)).small(frozenset({COMMIT, TREE}), 1 << 20)
    paths = {leaf.path for leaf in leaves_of(objects, commit, "")}
    assert paths == {*(f"file{n}" for n in range(12)), "empty", "one/random"}
    assert [leaf.path for leaf in leaves_of(objects, commit, "one")] == ["random"]
    (named,) = leaves_of(objects, commit, "one/random")
    assert (named.path, named.is_named) == ("random", True)
    with pytest.raises(CachdError, match="no 'one/other'"):
        list(leaves_of(objects, commit, "one/other"))
    with pytest.raises(ContentError, match="directories take more"):
        opened(framed(pack)).small(frozenset({COMMIT, TREE}), 100)


def test_every_flipped_byte_is_noticed(pack: bytes) -> None:
    for place in random.Random(2).sample(range(len(pack)), 60):
        wrong = bytearray(pack)
        wrong[place] ^= 0x41
        with pytest.raises((ArchiveInvalid, ContentError)):
            contents(opened(framed(bytes(wrong))))


def test_every_cut_is_noticed(pack: bytes) -> None:
    answer = framed(pack)
    for place in [*random.Random(3).sample(range(len(answer) - 4), 60), 0, 3, 40]:
        with pytest.raises((ContentError, OriginError)):
            contents(opened(answer[:place]))


def made(*objects: tuple[int, int, bytes, bytes]) -> bytes:
    """A pack of (kind, size, base, bytes to be deflated)."""
    body = b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big")
    for kind, size, base, data in objects:
        head, size = (kind << 4) | (size & 15), size >> 4
        while size:
            body += bytes([head | 0x80])
            head, size = size & 0x7F, size >> 7
        body += bytes([head]) + base + zlib.compress(data)

    return body + hashlib.sha1(body, usedforsecurity=False).digest()


BASE = (3, 4, b"", b"base")
BACK = bytes([1 + len(zlib.compress(b"base"))])


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ([(5, 1, b"", b"x")], "kind 5"),
        ([(3, 5, b"", b"four")], "shorter"),
        ([(3, 3, b"", b"four")], "longer"),
        ([(6, 4, bytes([1]), b"\4\4\4base")], "no base"),
        ([BASE, (6, 7, BACK, b"\5\4\4base")], "another base"),
        ([BASE, (6, 7, BACK, b"\4\5\4base")], "ends too early"),
        ([BASE, (6, 7, BACK, b"\4\3\4base")], "more than it says"),
        ([BASE, (6, 8, BACK, b"\4\4\4base\1")], "more than it says"),
        ([BASE, (6, 3, BACK, b"\4\4\0")], "unknown step"),
        ([BASE, (6, 5, BACK, b"\4\5\x91\1\4")], "beyond its base"),
    ],
)
def test_hostile_packs(objects: list[tuple[int, int, bytes, bytes]], says: str) -> None:
    with pytest.raises(ArchiveInvalid, match=says):
        contents(opened(framed(made(*objects))))


def test_a_chain_without_end() -> None:
    # Each copies the one before it whole: the offset back is that of a step's own length.
    objects = [BASE]
    step = zlib.compress(b"\4\4\x90\4")
    for number in range(400):
        back = BACK if number == 0 else bytes([len(step) + 2])
        objects.append((6, 4, back, b"\4\4\x90\4"))
    with pytest.raises(ArchiveInvalid, match="too often"):
        contents(opened(framed(made(*objects))))


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"", ContentError, "no pack"),
        (b"0000", ContentError, "no pack"),
        (b"zzzz", OriginError, "not what a git server"),
        (b"0025ERR upload-pack: not our ref abcd\n", OriginChanged, "no longer has"),
        (b"000dpackfile\n0014\3out of memory", OriginError, "out of memory"),
    ],
)
def test_what_a_server_says(answer: bytes, error: type[CachdError], says: str) -> None:
    with pytest.raises(error, match=says):
        PackStream(io.BytesIO(answer))


def test_lines() -> None:
    assert list(lines_of(b"000eversion 2\n00010000")) == [b"version 2", None, None]
    for wrong in (b"0003", b"00", b"0010abc", b"-001"):
        with pytest.raises(OriginError):
            list(lines_of(wrong))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12\n"


def test_pointers() -> None:
    found = pointer_of(POINTER)
    assert found is not None
    assert (found.oid, found.size) == ("ab" * 32, 12)
    extended = POINTER.replace(b"oid", b"ext-0-foo sha256:x\noid")
    wrong = POINTER.replace(b"ab", b"gg")
    for other in (b"", POINTER + b"x", wrong, POINTER[:-9], extended, os.urandom(200)):
        assert pointer_of(other) is None


@pytest.mark.parametrize(
    ("path", "target", "end"),
    [
        ("a/l", "b", "a/b"),
        ("a/l", "../c/./d", "c/d"),
        ("l", "../x", None),
        ("l", "/etc/passwd", None),
        ("l", "", None),
    ],
)
def test_links(path: str, target: str, end: str | None) -> None:
    assert resolve_link(path, target) == end


def test_a_pack_in_crumbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame is noted: a server of frames of a byte would take more memory than its pack."""
    monkeypatch.setattr(git_pkt, "FRAMES_MOST", 100)
    assert PackStream(io.BytesIO(framed(bytes(100_000), frame=1000))).size == 100_000
    empty = b"0005\1" * 1000
    assert PackStream(io.BytesIO(b"000dpackfile\n" + empty + b"0006\1x0000")).size == 1
    with pytest.raises(ContentError, match="more than 100 pieces"):
        PackStream(io.BytesIO(framed(bytes(101), frame=1)))
