"""Reading again leaves the page cache as it was."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from cachd.store.reread import Reread
from tests.store.models import sized

SIZE = 12 << 20


def cached(path: Path) -> int:
    """Pages that are in memory, by mincore(2): it brings none in."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        found = ctypes.create_string_buffer(SIZE // mmap.PAGESIZE)
        place = (ctypes.c_char * SIZE).from_buffer(mapped)
        try:
            assert libc.mincore(ctypes.addressof(place), SIZE, found) == 0
        finally:
            del place
        return sum(byte & 1 for byte in found.raw)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w"
    path.write_bytes(sized(SIZE))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    if cached(path):
        pytest.skip("this file system keeps its pages in memory")
    return path


def test_what_was_not_in_memory_is_given_back(file: Path) -> None:
    opened = Reread(file.parent, "w")
    assert opened.checksum(0, 8 << 20) is not None
    assert opened.checksum(8 << 20, 4 << 20) is not None
    assert opened.checksum(8 << 20, 5 << 20) is None
    opened.close()
    assert cached(file) == 0


def test_what_was_in_memory_stays(file: Path) -> None:
    file.read_bytes()
    before = cached(file)
    assert before == SIZE // mmap.PAGESIZE
    opened = Reread(file.parent, "w")
    opened.checksum(0, 8 << 20)
    opened.close()
    assert cached(file) == before


@pytest.mark.parametrize("what", ["missing", "directory", "link", "pipe"])
def test_what_is_no_file_is_not_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "w"
    if what == "directory":
        path.mkdir()
    elif what == "link":
        path.symlink_to("/etc/hostname")
    elif what == "pipe":
        os.mkfifo(path)
    opened = Reread(tmp_path, "w")
    assert (opened.size, opened.inode) == (-1, 0)
    opened.close()
