"""``file://`` and bare paths: the caller's own files, read by the client, without a daemon.

As KServe's storage initializer has it (``_download_local``): a directory's entries but for those
whose name begins with a dot, or one file; a single archive is unpacked. Unlike it, files are copied
and not linked symbolically: a link's target is seldom visible in the next container.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from cachd.cli import copying, places
from cachd.cli.manifest import WantedFile
from cachd.cli.materialise import STREAMS, Materialised
from cachd.cli.metadata_file import content_of_local
from cachd.cli.progress import Meter
from cachd.cli.staging import Staging, check_relative, translated
from cachd.cli.workers import run_all
from cachd.errors import InvalidError, NotFound, PathUnsafe
from cachd.schemes import scheme_of
from cachd.sources.archives import archive_kind
from cachd.sources.patterns import is_wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.cli.metadata_file import MetadataFile
    from cachd.cli.progress import Display


def local_path(uri: str) -> Path | None:
    """The path that a ``file://`` URI or a bare path means; None for every other URI."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return None if scheme_of(uri) else Path(uri)
    if scheme.lower().removeprefix("cachd+") != "file":
        return None
    if rest.startswith("localhost/"):
        rest = rest.removeprefix("localhost")
    if not rest.startswith("/"):
        raise InvalidError(
            f"{uri} names a host", field="uri", hint="write file:///path, with three slashes"
        )
    # KServe takes the text as it is; a URI may be percent-encoded.
    return Path(rest) if os.path.lexists(rest) else Path(unquote(rest))


def list_files(
    source: Path, uri: str, allow: Sequence[str], ignore: Sequence[str]
) -> list[tuple[Path, WantedFile]]:
    """The files of ``source`` with their places below the destination. Raises NotFound."""
    try:
        found = source.stat()
    except OSError as error:
        raise NotFound(
            f"Local path {uri} does not exist"
            if isinstance(error, FileNotFoundError)
            else f"can't read the local path {uri}: {error.strerror}",
            hint="the client reads local paths itself: give one that exists in this container; "
            "a model elsewhere has a URI such as s3://bucket/model",
        ) from error
    if stat.S_ISREG(found.st_mode):
        return [(source, WantedFile(path=source.name, size=found.st_size))]
    files = []
    for path in _walk(source):
        relative = path.relative_to(source).as_posix()
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and is_wanted(relative, allow, ignore):
            files.append((path, WantedFile(path=check_relative(relative), size=status.st_size)))
    if not files:
        raise NotFound(
            f"Failed to fetch model. No model found in {uri}.",
            hint="the directory has no files that pass the patterns; those whose name begins with "
            "a dot don't count at its top level",
        )
    return files


def _walk(source: Path) -> list[Path]:
    found: list[Path] = []
    # Links are followed, as reading through KServe's would; a loop of them ends here.
    seen: set[tuple[int, int] | None] = set()
    for directory, names, files in os.walk(source, followlinks=True):
        here = Path(directory)
        if places.identity(here) in seen:
            raise PathUnsafe(f"{here} is reached twice by symbolic links")
        seen.add(places.identity(here))
        if here == source:
            names[:] = [name for name in names if not name.startswith(".")]
            files = [name for name in files if not name.startswith(".")]
        names.sort()
        found.extend(here / name for name in sorted(files) if (here / name).exists())
    return found


def pull_local(
    source: Path,
    uri: str,
    destination: Path,
    display: Display,
    *,
    allow: Sequence[str] = (),
    ignore: Sequence[str] = (),
    metadata: MetadataFile | None = None,
) -> Materialised:
    """Copy ``source`` into ``destination``; a single archive is unpacked there instead."""
    started = time.monotonic()
    files = list_files(source, uri, allow, ignore)
    if _is_inside(destination, source):
        raise InvalidError(
            f"the destination {destination} lies inside {source}", hint="choose one outside"
        )
    kind = archive_kind(files[0][1].path) if len(files) == 1 else ""
    total = sum(file.size for _, file in files)
    stop = threading.Event()
    ways: set[str] = set()
    with Staging(destination) as staging:
        if kind:
            meter = Meter(display, "unpacking", 0, 0)
            came = _unpack(files[0][0], kind, staging, meter, stop)
            total = sum(size for _, size in came)
            ways.add("unpack")
        else:
            came = [(file.path, file.size) for _, file in files]
            if metadata is not None:
                metadata.check(path for path, _ in came)
            meter = Meter(display, "copying", total, len(files))
            places.check_space(destination, total, 0)
            if note := places.check_memory(destination, total):
                display.say(note)
            run_all(
                [partial(_copy, staging, path, file, meter, stop, ways) for path, file in files],
                STREAMS,
                stop,
            )
        if metadata is not None:
            metadata.check(path for path, _ in came)
            metadata.commit(staging, content_of_local(uri, came))
        else:
            staging.commit()
    return Materialised(
        way="+".join(sorted(ways)),
        seconds=time.monotonic() - started,
        bytes=total,
        files=len(came),
    )


def _copy(
    staging: Staging,
    path: Path,
    file: WantedFile,
    meter: Meter,
    stop: threading.Event,
    ways: set[str],
) -> None:
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"can't read {path}: {error.strerror}") from error
    try:
        with staging.create(file.path) as target, translated(staging.destination / file.path):
            if file.size and copying.reflink(source, target):
                ways.add("reflink")
                meter.add(file.size)
            else:
                ways.add("copy")
                copying.copy(source, target, file.size, str(path), meter.add, stop)
    finally:
        os.close(source)
    meter.file_done()


def _unpack(
    archive: Path,
    kind: Literal["tar", "zip"],
    staging: Staging,
    meter: Meter,
    stop: threading.Event,
) -> list[tuple[str, int]]:
    """Paths and sizes of the files unpacked into the staging directory."""
    from cachd.fetch.unpack import UnpackLimits, unpack_archive  # noqa: PLC0415  (loads awscrt)

    # The defaults of the daemon's settings, sources.archive.
    limits = UnpackLimits(max_bytes=2 * 1024**4, max_members=1_000_000, max_ratio=200.0)
    files = unpack_archive(
        archive,
        staging.tree,
        kind,
        archive.name,
        limits,
        grow=lambda count: None,
        report=meter.add,
        cancelled=stop.is_set,
    )
    staging.adopt(file.path for file in files)
    return [(file.path, file.size) for file in files]


def _is_inside(destination: Path, source: Path) -> bool:
    root = places.identity(source)
    real = Path(os.path.realpath(destination))
    return root is not None and any(
        places.identity(directory) == root for directory in (real, *real.parents)
    )


def to_answer(uri: str, source: Path, done: Materialised) -> dict[str, Any]:
    """The same shape as the daemon's answer, as far as it goes."""
    return {
        "uri": uri,
        "origin": "file",
        "path": str(source),
        "files": done.files,
        "bytes": done.bytes,
        "result": "local",
    }
