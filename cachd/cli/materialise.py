"""A model's files from the cache into a directory, by the cheapest way that works."""

from __future__ import annotations

import heapq
import os
import stat
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.cli import checking, copying, places
from cachd.cli.descriptors import Descriptors
from cachd.cli.metadata_file import content
from cachd.cli.progress import Meter
from cachd.cli.staging import Staging, translated
from cachd.cli.streaming import Streamer
from cachd.cli.workers import run_all
from cachd.errors import SizeMismatch

if TYPE_CHECKING:
    from cachd.cli.client import Client
    from cachd.cli.manifest import Wanted, WantedFile
    from cachd.cli.metadata_file import MetadataFile
    from cachd.cli.progress import Display

STREAMS = 4
"""Files at a time."""

_SAMPLES = 3
"""Files that are tried before it is settled that none can be opened here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Materialised:
    """How the files came. ``way``: view, reflink, copy, hard-link, move, descriptor, stream or
    already-there; several, joined with ``+``, where files came by different ways. ``bytes`` are the
    files' sizes. ``verified``: None where nobody asked for it."""

    way: str
    seconds: float
    bytes: int
    files: int
    verified: bool | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes), "seconds": round(self.seconds, 4)}


class Materialiser:
    """One run: from the snapshot that ``answer`` names into ``destination``."""

    def __init__(
        self,
        client: Client,
        answer: dict[str, Any],
        destination: Path,
        display: Display,
        *,
        hard_link: bool = False,
        move: bool = False,
        verify: bool = False,
        wait_daemon: float = 30.0,
        metadata: MetadataFile | None = None,
    ) -> None:
        """``move``: the cache is nobody else's, and goes when this is done. ``metadata``: what is
        to be written besides."""
        self._metadata = metadata
        self._answer = answer
        self._tree = Path(answer["path"])
        # What has the same path as on the node of another daemon is something else.
        self._is_near = client.files_socket is not None
        self._destination = destination
        self._display = display
        self._hard_link = hard_link
        self._move = move
        self._checksum = checking.crc64nvme() if verify else None
        self._verify = verify
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._streamer = Streamer(client, answer, wait_daemon, self._stop)
        self._descriptors = Descriptors(client, answer)
        self._reflink = False
        self._place_each = False
        self._ways: dict[str, int] = {}
        self._notes: list[str] = []

    def already_there(self) -> Materialised | None:
        """The result, where the destination is this very snapshot; raises DestinationUnusable for
        any other place in the cache. Looks at names only, so that it can come first."""
        if not self._is_near:
            return None
        if places.is_tree_itself(self._destination, self._tree):
            if self._metadata is not None:
                self._metadata.refuse_inside("it is the cache's own tree")
            return Materialised(
                way="already-there",
                seconds=0.0,
                bytes=int(self._answer["bytes"]),
                files=int(self._answer["files"]),
                notes=("the destination is the cache's own tree; nothing was written",),
            )
        places.refuse_inside_cache(self._destination, self._tree)
        return None

    def run(self, wanted: Wanted) -> Materialised:
        """Bring the files. On any failure what this run wrote is removed."""
        started = time.monotonic()
        if self._metadata is not None:
            self._metadata.check(file.path for file in wanted.files)
        if wanted.files and all(self._is_same_file(file) for file in wanted.files):
            note = "every file of the destination is the cache's own; none was written"
            if self._metadata is not None:
                with Staging(self._destination) as staging:
                    self._metadata.commit(staging, content(wanted))
            return self._result(wanted, started, way="already-there", notes=(note,))
        if self._verify and self._checksum is None:
            self._note("not verified: awscrt, which has the checksum, isn't installed here")
        with Staging(self._destination) as staging:
            self._choose(staging, wanted)
            meter = Meter(self._display, "copying", wanted.size, len(wanted.files))
            by_size = sorted(wanted.files, key=lambda file: -file.size)
            calls = (partial(self._bring, staging, file, wanted, meter) for file in by_size)
            try:
                run_all(calls, STREAMS, self._stop)
            finally:
                self._descriptors.close()
            if self._metadata is not None:
                self._metadata.commit(staging, content(wanted))
            else:
                staging.commit()
        return self._result(wanted, started)

    def _result(
        self, wanted: Wanted, started: float, *, way: str = "", notes: tuple[str, ...] = ()
    ) -> Materialised:
        by_bytes = sorted(self._ways, key=lambda name: -self._ways[name])
        return Materialised(
            way=way or "+".join(by_bytes) or "copy",
            seconds=time.monotonic() - started,
            bytes=wanted.size,
            files=len(wanted.files),
            verified=(self._checksum is not None and not way) if self._verify else None,
            notes=(*self._notes, *notes),
        )

    def _choose(self, staging: Staging, wanted: Wanted) -> None:
        """Try what costs nothing; where it doesn't work, look at the space first."""
        if self._move:
            return
        sample = self._sample(wanted)
        self._reflink = sample is not None and self._probe(staging, sample, link=False)
        if self._hard_link:
            self._hard_link = sample is not None and self._probe(staging, sample, link=True)
            self._note(
                "hard links: a program that writes into these files changes the cached model "
                "for everybody"
                if self._hard_link
                else "a hard link isn't possible here: the cache is on another file system, or "
                "can't be read from here"
            )
        if self._hard_link or self._reflink:
            return
        replaced = sum(self._replaced(file) for file in wanted.files)
        with translated(self._destination):
            self._place_each = not places.check_space(self._destination, wanted.size, replaced)
        note = places.check_memory(self._destination, wanted.size)
        if note:
            self._note(note)

    def _sample(self, wanted: Wanted) -> WantedFile | None:
        """The smallest file with bytes in it that can be opened here: the first few tell, for all
        of them lie in one tree."""
        with_bytes = (file for file in wanted.files if file.size)
        for file in heapq.nsmallest(_SAMPLES, with_bytes, key=lambda file: file.size):
            opened = self._open_any(file)
            if opened is not None:
                os.close(opened[0])
                return file
        return None

    def _probe(self, staging: Staging, sample: WantedFile, *, link: bool) -> bool:
        probe = staging.tree / ".probe"
        opened = self._open_any(sample)
        if opened is None:
            return False
        source = opened[0]
        try:
            if link:
                probe.hardlink_to(self._tree / sample.path)
                return True
            with probe.open("wb") as target:
                return copying.reflink(source, target.fileno())
        except OSError:
            return False
        finally:
            os.close(source)
            probe.unlink(missing_ok=True)

    def _bring(self, staging: Staging, file: WantedFile, wanted: Wanted, meter: Meter) -> None:
        way = self._bring_by(staging, file, wanted, meter)
        with self._lock:
            self._ways[way] = self._ways.get(way, 0) + file.size
        if self._place_each:
            staging.place(file.path)
        meter.file_done()

    def _bring_by(self, staging: Staging, file: WantedFile, wanted: Wanted, meter: Meter) -> str:
        if (self._move or self._hard_link) and self._link(staging, file, wanted):
            meter.add(file.size)
            return "move" if self._move else "hard-link"
        opened = self._open_any(file)
        try:
            with staging.create(file.path) as target:
                way = "stream"
                with translated(self._destination / file.path):
                    if opened is None:
                        self._streamer.fetch(file, target, meter.add)
                    else:
                        source, way = opened
                        way = self._copy(source, target, way, file, meter)
                self._check(target, file, wanted)
            return way
        finally:
            if opened is not None:
                os.close(opened[0])

    def _copy(self, source: int, target: int, way: str, file: WantedFile, meter: Meter) -> str:
        if self._reflink and file.size and copying.reflink(source, target):
            meter.add(file.size)
            return "reflink" if way == "copy" else way
        copying.copy(source, target, file.size, file.path, meter.add, self._stop)
        return way

    def _open_any(self, file: WantedFile) -> tuple[int, str] | None:
        """The file, by the path if the cache is visible here, else by the daemon's descriptor; and
        what that way is called."""
        if (fd := self._open(file)) is not None:
            return fd, "copy"
        if (fd := self._descriptors.open(file)) is not None:
            return fd, "descriptor"
        return None

    def _link(self, staging: Staging, file: WantedFile, wanted: Wanted) -> bool:
        source = self._open(file)
        if source is None:
            return False
        try:
            self._check(source, file, wanted)
            if self._move:
                staging.take(self._tree / file.path, file.path)
            else:
                staging.link(self._tree / file.path, file.path)
        except OSError:
            return False
        finally:
            os.close(source)
        return True

    def _check(self, fd: int, file: WantedFile, wanted: Wanted) -> None:
        found = os.fstat(fd).st_size
        if found != file.size:
            raise SizeMismatch(f"{file.path} has {found} bytes instead of {file.size}")
        if self._checksum is not None and file.blocks is not None:
            checking.check_file(
                fd, file.path, file.blocks, wanted.block_size, self._checksum, self._stop
            )

    def _open(self, file: WantedFile) -> int | None:
        """The cache's file for reading, if it is visible here and is what the manifest says."""
        if not self._is_near:
            return None
        try:
            fd = os.open(
                self._tree / file.path,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            )
        except OSError:
            return None
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_size == file.size:
            return fd
        os.close(fd)
        return None

    def _is_same_file(self, file: WantedFile) -> bool:
        if not self._is_near:
            return False
        here = places.identity(self._destination / file.path)
        return here is not None and here == places.identity(self._tree / file.path)

    def _replaced(self, file: WantedFile) -> int:
        try:
            found = (self._destination / file.path).lstat()
        except OSError:
            return 0
        alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        return found.st_blocks * 512 if alone else 0

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._display.say(text)
