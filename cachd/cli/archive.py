"""Tar streams that the client writes: deterministic, and of bounded memory."""

from __future__ import annotations

import os
import stat
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from cachd.cli.manifest import MANIFEST_NAME
from cachd.cli.staging import check_relative
from cachd.errors import CachdError, InvalidError, NotFound, SizeMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1024 * 1024
_BLOCK = 512
_END = bytes(2 * _BLOCK)

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


_DECOMPRESSORS = frozenset({"zlib", "lzma", "_lzma", "compression.zstd", "backports.zstd"})
"""Modules whose errors are neither EOFError nor OSError."""


def files_of(directory: Path) -> list[tuple[str, Path, int]]:
    """Name in the archive, path and size of each file, sorted, the manifest first.

    Symbolic links to files are followed (a hub's cache is made of them); to directories, and
    whatever is no file, they are refused: nothing is left out silently. Raises NotFound,
    InvalidError.
    """
    with reading(str(directory)):
        is_there = directory.is_dir()
    if not is_there:
        raise NotFound(
            f"there is no directory or file {directory}",
            hint="name a directory with the model's files, or a tar file of them, on this machine",
        )
    found = []
    for root, names, files in os.walk(directory, onerror=_refuse):
        here = Path(root)
        for name in names:
            if (here / name).is_symlink():
                raise InvalidError(
                    f"{here / name} is a symbolic link to a directory",
                    hint="import the directory that it leads to, or a copy (cp -rL)",
                )
        for name in files:
            path = here / name
            try:
                status = path.stat()
            except OSError as error:
                raise NotFound(
                    f"can't read {path}: {error.strerror}",
                    hint="a link that leads nowhere, or no right to read it; nothing is left out "
                    "silently",
                ) from error
            if not stat.S_ISREG(status.st_mode):
                raise InvalidError(
                    f"{path} is no regular file", hint="a model has files only; remove it there"
                )
            relative = check_relative(path.relative_to(directory).as_posix())
            found.append((relative, path, status.st_size))
    if not any(name != MANIFEST_NAME for name, _, _ in found):
        raise NotFound(f"{directory} holds no files", hint="import a directory with a model in it")
    return sorted(found, key=lambda item: (item[0] != MANIFEST_NAME, item[0]))


def _refuse(error: OSError) -> None:
    with reading(str(error.filename)):
        raise error


@contextmanager
def reading(source: str) -> Iterator[None]:
    """What goes wrong with ``source``, or with what is compressed in it, as InvalidError."""
    try:
        yield
    except CachdError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        if reason is not None:
            raise InvalidError(
                f"can't read {source}: {reason}",
                hint=f"cachd runs as uid {os.geteuid()} here: check who may read it",
            ) from error
        if isinstance(error, EOFError | OSError) or type(error).__module__ in _DECOMPRESSORS:
            raise InvalidError(f"can't read {source}: {error}", hint="is the archive whole?") from (
                error
            )
        raise


def tar_of(files: list[tuple[str, Path, int]], tick: Callable[[int], None]) -> Iterator[bytes]:
    """The archive's bytes: the same for the same names and contents, whoever owns the files.

    ``tick`` gets the bytes of each step. Raises SizeMismatch if a file changes on the way.
    """
    for name, path, size in files:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        left = size
        with reading(str(path)):
            file = path.open("rb", buffering=0)
        with file:
            while left:
                with reading(str(path)):
                    data = file.read(min(CHUNK, left))
                if not data:
                    break
                left -= len(data)
                tick(len(data))
                yield data
        if left:
            raise SizeMismatch(f"{path} became shorter while it was read")
        yield bytes(-size % _BLOCK)
    yield _END


def chunks_of(stream: BinaryIO, name: str, tick: Callable[[int], None]) -> Iterator[bytes]:
    """A tar file as it is, decompressed if it is compressed (by its first bytes).

    Raises InvalidError with ``name`` if it can't be read.
    """
    with reading(name):
        plain = decompressed(stream)
    while True:
        with reading(name):
            data = plain.read(CHUNK)
        if not data:
            return
        tick(len(data))
        yield data


def decompressed(stream: BinaryIO) -> BinaryIO:
    """A reader of plain bytes over ``stream``, which must be able to ``peek``.

    Raises InvalidError for zstd where no library for it is installed.
    """
    head = stream.peek(8)[:8]  # type: ignore[attr-defined]
    kind = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
    if kind == "gzip":
        import gzip  # noqa: PLC0415

        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if kind == "bzip2":
        import bz2  # noqa: PLC0415

        return cast("BinaryIO", bz2.BZ2File(stream))
    if kind == "xz":
        import lzma  # noqa: PLC0415

        return cast("BinaryIO", lzma.LZMAFile(stream))
    if kind == "zstd":
        return _zstd(stream)
    return stream


def _zstd(stream: BinaryIO) -> BinaryIO:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # noqa: PLC0415
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415
        except ImportError:
            raise InvalidError(
                "the archive is compressed with zstd, and no library for it is installed",
                hint="install backports.zstd, or decompress it: zstd -d",
            ) from None
    reader: BinaryIO = zstd.ZstdFile(stream)
    return reader
