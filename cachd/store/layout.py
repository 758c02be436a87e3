"""Names on disk, the layout's version, and the lock of one daemon per root.

::

    <root>/layout.json            version of the layout; written first, so that the rest is ours
           daemon.lock            held by the daemon for life
           ingest/<key>-<revision>/{tree/, journal, manifest.json}
           snapshots/<key>/<revision>/{tree/, manifest.json}
           current/<key>          the current revision of the key
           blobs/<algorithm>/<digest>
           views/<pod>/<name>/    what one pod mounts
           state/{leases,pins,updates,views}/   small files
           quarantine/            wrong bytes, with their stories
           trash/                 renamed here first, unlinked in the background
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import portalocker

from cachd import __version__
from cachd.errors import InternalError, LayoutUnsupported, RootLocked, RootUnusable
from cachd.store.decode import parse_object
from cachd.store.fsio import make_directory, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cachd.store.threads import Threads

log = logging.getLogger("cachd.store")

LAYOUT_VERSION = 1
_LAYOUT_FILE = "layout.json"
_HEX = re.compile(r"[0-9a-f]{1,128}")
_LOCK_FILE = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_HARMLESS = frozenset({"lost+found", ".volume-id", "daemon.lock", f"{_LAYOUT_FILE}.tmp"})
_STATE = ("state/leases", "state/pins", "state/updates", "state/views")
_PRIVATE = ("ingest", "quarantine", "state", *_STATE, "trash")
_SHOWN = ("snapshots", "current", "blobs", "blobs/sha256", "views")
_OURS = frozenset({_LAYOUT_FILE, *_PRIVATE, *_SHOWN})
_TELLING = frozenset({"ingest", "snapshots", "state"})
_STANDBY_POLL = 0.2
_IN_USE_HINT = (
    "stop the other daemon, give this one another root, or set store.standby to wait until it ends"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below an absolute ``root``. Pure."""

    root: Path

    @property
    def ingests(self) -> Path:
        return self.root / "ingest"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def currents(self) -> Path:
        return self.root / "current"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def leases(self) -> Path:
        return self.root / "state" / "leases"

    @property
    def pins(self) -> Path:
        return self.root / "state" / "pins"

    @property
    def views(self) -> Path:
        return self.root / "views"

    @property
    def view_records(self) -> Path:
        return self.root / "state" / "views"

    @property
    def updates(self) -> Path:
        return self.root / "state" / "updates"

    @property
    def state(self) -> Path:
        return self.root / "state"

    def ingest(self, key: str, revision: str) -> Path:
        return self.ingests / f"{check_hex(key)}-{check_hex(revision)}"

    def snapshot(self, key: str, revision: str) -> Path:
        return self.snapshots / check_hex(key) / check_hex(revision)

    def current(self, key: str) -> Path:
        return self.currents / check_hex(key)

    def pin(self, key: str) -> Path:
        return self.pins / check_hex(key)

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / "sha256" / check_hex(sha256)


def is_hex(text: str) -> bool:
    """Whether ``text`` can be a key, a revision or a digest on disk."""
    return _HEX.fullmatch(text) is not None


def check_hex(text: str) -> str:
    """``text`` itself. Raises InternalError unless it is lower-case hex: a path is made of it."""
    if not is_hex(text):
        raise InternalError(f"{text[:80]!r} is no lower-case hex, so it can't be a name on disk")
    return text


def prepare_root(root: Path) -> None:
    """Make ``root`` ours, or see that it is. Blocking.

    Nothing is touched where it holds something else. Raises RootUnusable, LayoutUnsupported.
    """
    hint = "choose an empty directory that the daemon may write to: store.root"
    try:
        marker = root / _LAYOUT_FILE
        if marker.exists():
            try:
                data = parse_object(marker.read_bytes())
            except ValueError:
                # No cachd of any version wrote that. Where all else is ours, so is the root.
                names = {entry.name for entry in root.iterdir()}
                if names - _HARMLESS - _OURS or not names.issuperset(_TELLING):
                    raise _unreadable(root) from None
                log.error("%s was damaged; it is written again", marker)
            else:
                _check_version(root, data)
                return
        elif root.exists():
            if not root.is_dir():
                raise RootUnusable(f"the root {root} is no directory", hint=hint)
            foreign = sorted({entry.name for entry in root.iterdir()} - _HARMLESS)
            if foreign:
                shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
                raise RootUnusable(
                    f"the root {root} holds something else than a cache: {shown}", hint=hint
                )
        else:
            missing = [p for p in (root, *root.parents) if not p.exists()]
            for directory in reversed(missing):
                make_directory(directory, 0o755)
        data = {"version": LAYOUT_VERSION, "readable_by": LAYOUT_VERSION, "by": __version__}
        replace_file(root, _LAYOUT_FILE, json.dumps(data).encode() + b"\n", mode=0o644)
    except OSError as error:
        raise _unusable(root, error) from error


def _check_version(root: Path, data: dict[str, Any]) -> None:
    try:
        version = int(data["version"])
        readable_by = int(data.get("readable_by", version))
    except (ValueError, KeyError, TypeError, OverflowError):
        raise _unreadable(root) from None
    if readable_by > LAYOUT_VERSION:
        raise LayoutUnsupported(
            f"the root {root} has layout {version}, written by cachd {data.get('by', '?')}; "
            f"this cachd knows layouts up to {LAYOUT_VERSION}",
            hint="start the newer cachd again, or give this one another root; "
            "the models can be fetched anew",
        )


def _unreadable(root: Path) -> RootUnusable:
    return RootUnusable(
        f"{root / _LAYOUT_FILE} can't be read as a layout's version",
        hint="restore it, or give cachd another root",
    )


def _unusable(root: Path, error: OSError) -> RootUnusable:
    return RootUnusable(
        f"the root {root} can't be used: {error.strerror} ({error.filename})",
        hint=f"make it writable for uid {os.getuid()}, or set store.root to a directory that is",
    )


def make_directories(root: Path) -> None:
    """The directories below ``root``. Blocking; call it with the daemon's lock. Raises
    RootUnusable."""
    try:
        for name in _PRIVATE:
            make_directory(root / name, 0o700)
        for name in _SHOWN:
            make_directory(root / name, 0o755)
    except OSError as error:
        raise _unusable(root, error) from error


class DaemonLock:
    """``daemon.lock``: at most one daemon writes below a root."""

    def __init__(self, root: Path, threads: Threads) -> None:
        self._path = root / "daemon.lock"
        self._threads = threads
        self._fd = -1

    async def acquire(self, *, standby: bool, on_wait: Callable[[str], None]) -> None:
        """Take the lock; with ``standby`` wait for it as long as it takes (cancellable).

        ``on_wait`` is called once, with a sentence, if there is somebody to wait for. Raises
        RootLocked, RootUnusable.
        """
        is_waiting = False
        while not await self._threads.run(self._try):
            holder = await self._threads.run(self._holder)
            if not standby:
                raise RootLocked(
                    f"another cachd{holder} uses the root {self._path.parent}", hint=_IN_USE_HINT
                )
            if not is_waiting:
                is_waiting = True
                on_wait(f"another cachd{holder} holds the root; standing by")
            await asyncio.sleep(_STANDBY_POLL)

    def _try(self) -> bool:
        try:
            # A file held open for writing for life would keep the volume from being remounted
            # read-only.
            fd = os.open(self._path, os.O_RDONLY | _LOCK_FILE, 0o644)
            if not _can_lock_read_only(fd):
                os.close(fd)
                fd = os.open(self._path, os.O_RDWR | _LOCK_FILE, 0o644)
        except OSError as error:
            raise _unusable(self._path.parent, error) from error
        if not lock_descriptor(fd):
            os.close(fd)
            return False
        self._path.write_bytes(f"{os.getpid()} on {os.uname().nodename}\n".encode())
        self._fd = fd
        return True

    def _holder(self) -> str:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""
        return f" (process {text[:200]})" if text else ""

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _can_lock_read_only(fd: int) -> bool:
    """NFS makes byte-range locks of flock(2), and those want a descriptor for writing."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def lock_descriptor(fd: int) -> bool:
    """Lock the file of ``fd`` until it is closed; False if somebody else has it.

    Where the file system knows no locks it counts as taken: a lock saves work, it never guards
    truth.
    """
    try:
        portalocker.lock(fd, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException:
        return True
    return True
