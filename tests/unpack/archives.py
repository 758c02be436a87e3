"""Archives built in memory, good and hostile, and the call under test."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

from cachd.fetch.unpack import UnpackLimits, unpack_archive
from tests.disk import tree_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cachd.model import ManifestFile

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}
LIMITS = UnpackLimits(max_bytes=1 << 40, max_members=10_000, max_ratio=200)


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (header, body); a header's size is its body's length."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, body in members:
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def tar_of(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    return tar(*((member(name), body) for name, body in files.items()), format=format)


def raw_header(
    name: bytes, size: bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000"
) -> bytes:
    """One header block with any twelve bytes as its size."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = b"0000644\0"
    block[124 : 124 + len(size)] = size
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return out.getvalue()


def zip_entry(name: str, body: bytes, mode: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.create_system = 3
        archive.writestr(info, body)
    return out.getvalue()


class Unpacking:
    """``run`` unpacks into ``tree``; beside it lies ``outside``, which must stay as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.outside = folder / "outside"
        self.grown: list[int] = []
        self.reported = 0
        self.reset()

    def reset(self) -> None:
        import shutil

        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.rmtree(self.outside, ignore_errors=True)
        self.tree.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "secret").write_bytes(b"secret")
        self.grown.clear()
        self.reported = 0

    def run(
        self,
        data: bytes,
        kind: Any = "tar",
        limits: UnpackLimits = LIMITS,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[ManifestFile]:
        archive = self.folder / "archive"
        archive.write_bytes(data)
        return unpack_archive(
            archive, self.tree, kind, "archive", limits, self.grown.append, self._report, cancelled
        )

    def _report(self, count: int) -> None:
        self.reported += count

    def contents(self) -> dict[str, bytes]:
        return tree_of(self.tree)

    def check_harmless(self) -> None:
        """Nothing outside was touched, and inside are plain files and directories alone."""
        assert [p.name for p in self.outside.iterdir()] == ["secret"]
        assert (self.outside / "secret").read_bytes() == b"secret"
        assert (self.outside / "secret").stat().st_nlink == 1
        assert {p.name for p in self.folder.iterdir()} <= {"tree", "outside", "archive"}
        for path in self.tree.rglob("*"):
            mode = path.lstat().st_mode
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), path
