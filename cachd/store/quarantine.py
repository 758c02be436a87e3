"""Bytes that turned out wrong, kept for a person to look at, each with its story.

::

    quarantine/<when>-<random>/story.json   what was expected, and what was seen
                               data         the file or the block itself, if it fits

Inside the quota, bounded in bytes (``store.quarantine_quota``) and age (``store.quarantine_ttl``):
the oldest go first. Nothing here is ever read back by the daemon.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cachd.store.decode import parse_object
from cachd.store.fsio import make_directory, measure, write_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cachd.store.context import Context

log = logging.getLogger("cachd.store")

_STORY = "story.json"
_DATA = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What is wrong with some bytes. ``offset`` and ``length`` in bytes of the file ``path`` of the
    model. ``expected`` and ``seen`` name what was compared, ``sha256:…`` for example. ``uri`` holds
    no secret: it is the ref's."""

    key: str
    revision: str
    uri: str
    path: str
    offset: int
    length: int
    reason: str
    expected: str
    seen: str


class Quarantine:
    """``<root>/quarantine``, for one event loop. Keeping is an aid to people: what can't be kept is
    logged and dropped, and no error of it reaches the caller."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def take(self, source: Path, story: Story) -> str | None:
        """Move the file ``source`` (of the same file system) here; the name of its entry. The
        caller has seen to it that no row counts its bytes any more."""

        def move(place: Path) -> None:
            source.rename(place)

        return await self._add(story, move)

    async def keep(self, data: bytes, story: Story) -> str | None:
        """Keep a copy of some bytes; the name of their entry."""
        return await self._add(story, lambda place: _write(place, data))

    async def trim(self) -> None:
        """Let go of what is too old or too much. Raises OSError if the disk can't be read."""
        settings, context = self._context.settings, self._context
        most = settings.quarantine_quota.resolve(context.volume.size)
        oldest = context.clock.time_ns() - int(settings.quarantine_ttl * 1e9)
        count, inodes = await context.threads.run(_trim, context.layout.quarantine, most, oldest)
        context.index.note_quarantine(count, inodes)

    async def entries(self) -> list[dict[str, Any]]:
        """The stories, oldest first, each with its entry's ``name`` and whether the bytes are there
        (``has_data``)."""
        return await self._context.threads.run(_read_all, self._context.layout.quarantine)

    async def _add(self, story: Story, fill: Callable[[Path], None]) -> str | None:
        context = self._context
        # Never before an older entry, whatever the wall clock does.
        name = f"{context.index.tick(context.clock.time_ns()):020d}-{secrets.token_hex(4)}"
        log.warning(
            "quarantine %s: %s of %s (%s): expected %s, seen %s",
            name,
            story.path,
            story.key,
            story.reason,
            story.expected,
            story.seen,
            extra={"key": story.key},
        )
        try:
            await context.threads.run(_enter, context.layout.quarantine / name, story, fill)
            context.on_step("quarantined")
            await self.trim()
        except OSError as error:
            log.error("%s of %s can't be kept in quarantine: %s", story.path, story.key, error)
            return None
        return name


def _enter(place: Path, story: Story, fill: Callable[[Path], None]) -> None:
    make_directory(place, 0o700)
    _write(place / _STORY, json.dumps(asdict(story), indent=1).encode("ascii") + b"\n")
    fill(place / _DATA)


def _write(place: Path, data: bytes) -> None:
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def _names(directory: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(place.name for place in directory.iterdir())
    return []


def _trim(directory: Path, most: int, oldest: int) -> tuple[int, int]:
    """(bytes, inodes) that are left. The latest entries stay; one too large keeps its story."""
    total = inodes = 0
    for name in reversed(_names(directory)):
        place = directory / name
        found = measure(place) if place.is_dir() else None
        stamp = name.partition("-")[0]
        if found is None or not (stamp.isascii() and stamp.isdecimal()) or int(stamp) < oldest:
            _drop(place)
            continue
        if total + found.allocated > most:
            with suppress(FileNotFoundError):
                (place / _DATA).unlink()
            found = measure(place)
            if total + found.allocated > most:
                _drop(place)
                continue
        total += found.allocated
        inodes += found.inodes
    return total, inodes


def _drop(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def _read_all(directory: Path) -> list[dict[str, Any]]:
    stories = []
    for name in _names(directory):
        with suppress(OSError, ValueError):
            story = parse_object((directory / name / _STORY).read_bytes())
            stories.append({**story, "name": name, "has_data": (directory / name / _DATA).exists()})
    return stories
