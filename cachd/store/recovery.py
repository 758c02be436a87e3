"""The scan at start: what is on disk becomes rows, without reading a file's content.

A snapshot counts if its manifest can be read and every file that it lists is there in its size.
What doesn't is moved to the trash, with an error in the log. Runs in one thread.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.store.damage import CORRUPT_NAME, read_marker
from cachd.store.fsio import measure, measure_foreign, replace_file
from cachd.store.journal import JOURNAL_NAME, read_header
from cachd.store.layout import is_hex
from cachd.store.leases import read_lease
from cachd.store.manifests import MANIFEST_NAME, info_of, read_manifest
from cachd.store.observe import ignore_step
from cachd.store.publish import tidy_snapshot
from cachd.store.rows import Row
from cachd.store.types import NOBODY, SnapshotInfo
from cachd.store.updates import take_up
from cachd.store.viewscan import FoundView, scan_views

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from pathlib import Path

    from cachd.model import Manifest
    from cachd.store.fsio import Measured
    from cachd.store.layout import Layout
    from cachd.store.leases import LeaseFile
    from cachd.store.manifests import Manifests
    from cachd.store.observe import OnStep
    from cachd.store.updates import UpdateRecord

log = logging.getLogger("cachd.store")


@dataclass(slots=True)
class Progress:
    """How far the scan is; read by other threads."""

    done: int = 0
    total: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Found:
    """``rows`` with the bytes by inode of their files that have more than one name."""

    rows: list[tuple[Row, Mapping[int, int]]] = field(default_factory=list)
    currents: dict[str, str] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)
    updates: dict[str, UpdateRecord] = field(default_factory=dict)
    leases: list[LeaseFile] = field(default_factory=list)
    views: list[FoundView] = field(default_factory=list)


class _Stopped(Exception):
    pass


def scan(
    layout: Layout,
    manifests: Manifests,
    *,
    now: float,
    partial_ttl: float,
    progress: Progress,
    on_step: OnStep = ignore_step,
) -> Found:
    """``now`` in seconds since the epoch; ingests idle for longer than ``partial_ttl`` seconds go
    to the trash. Blocking; ends early when ``progress.stop`` is set. Raises OSError."""
    found = Found()
    try:
        keys = [entry for entry in layout.snapshots.iterdir() if is_hex(entry.name)]
        progress.total = len(keys)
        for directory in keys:
            if not directory.is_dir():
                _to_trash(layout, directory, "stray")
                continue
            for path in directory.iterdir():
                if is_hex(path.name):
                    _add_snapshot(found, layout, manifests, directory.name, path)
            with suppress(OSError):
                directory.rmdir()
            progress.done += 1
            if progress.stop.is_set():
                raise _Stopped
        on_step("snapshots scanned")
        _choose_currents(found, layout)
        on_step("currents chosen")
        _add_ingests(found, layout, now - partial_ttl)
        on_step("ingests scanned")
        _add_trash(found, layout)
        _read_state(found, layout)
        on_step("state read")
        found.views = scan_views(layout)
        rows = {each.row.place: each for each in found.views}
        found.rows += [(each.row, each.linked) for each in rows.values()]
        on_step("views read")
    except _Stopped:
        pass
    return found


def _add_snapshot(found: Found, layout: Layout, manifests: Manifests, key: str, path: Path) -> None:
    try:
        manifest = read_manifest(path)
        last_used = path.stat().st_mtime_ns
        held = measure(path)
        damage = read_marker(path, manifest) if CORRUPT_NAME in held.files else {}
        problem = _problem(manifest, held, key, path.name, damage)
        if not problem and JOURNAL_NAME in held.files:
            # Killed between its publication and the commit's end.
            tidy_snapshot(layout, path, manifest.files)
            held = measure(path)
        checked_at = (path / MANIFEST_NAME).stat().st_mtime
    except (OSError, ValueError) as error:
        problem = str(error)
        manifest, held, last_used, damage, checked_at = None, None, 0, {}, 0.0
    if problem or manifest is None or held is None:
        log.error("the snapshot %s is not whole, so it goes: %s", path, problem)
        _to_trash(layout, path, key)
        return
    manifests.offer(manifest)
    row = Row(
        key=key,
        revision=path.name,
        info=info_of(manifest),
        state="snapshot",
        allocated=held.allocated,
        inodes=held.inodes,
        last_used=last_used,
        damage=damage,
        checked_at=checked_at,
    )
    found.rows.append((row, held.linked))


def _problem(
    manifest: Manifest, held: Measured, key: str, revision: str, known: Container[str]
) -> str:
    """Why it is no snapshot. That files are ``known`` to be damaged is no reason: they are mended
    when somebody asks."""
    if (manifest.ref.key, manifest.revision) != (key, revision):
        return f"its manifest is of {manifest.ref.key} revision {manifest.revision}"
    for file in manifest.files:
        if file.path in known:
            continue
        on_disk = held.files.get("tree/" + file.path)
        if on_disk is None:
            return f"{file.path!a} is missing"
        if on_disk[0] != file.size:
            return f"{file.path!a} has {on_disk[0]} bytes, not {file.size}"
    return ""


def _to_trash(layout: Layout, path: Path, key: str) -> None:
    place = layout.trash / f"{key}-{path.name[:64]}-{secrets.token_hex(8)}"
    try:
        path.rename(place)
    except OSError as error:
        log.error("%s can't be moved to the trash: %s", path, error)


def _choose_currents(found: Found, layout: Layout) -> None:
    revisions: dict[str, list[Row]] = {}
    for row, _ in found.rows:
        revisions.setdefault(row.key, []).append(row)
    for path in list(layout.currents.iterdir()):
        if not is_hex(path.name) or path.name not in revisions or not path.is_file():
            _discard(path)
    for key, rows in revisions.items():
        path = layout.current(key)
        try:
            said = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            said = ""
        if said not in {row.revision for row in rows}:
            said = max(rows, key=lambda row: row.last_used).revision
            log.warning("no valid revision of %s was current; %s is now", key, said)
            # Chosen anew if it is lost; 10,000 of them needn't wait for the disk.
            replace_file(layout.currents, key, said.encode() + b"\n", mode=0o644, is_durable=False)
        found.currents[key] = said


def _add_ingests(found: Found, layout: Layout, expired_before: float) -> None:
    for path in list(layout.ingests.iterdir()):
        key, _, revision = path.name.partition("-")
        journal = path / JOURNAL_NAME
        header, touched = None, 0.0
        with suppress(OSError, ValueError):
            header, touched = read_header(journal), journal.stat().st_mtime
        is_ours = header is not None and (header.ref.key, header.revision) == (key, revision)
        if header is None or not is_ours or not _is_laid_out(path, header.unpack):
            log.warning("%s is no ingest that could be gone on with, so it goes", path)
            _to_trash(layout, path, "ingest")
            continue
        if touched < expired_before:
            log.info("the unfinished ingest %s expired", path.name, extra={"key": key})
            _to_trash(layout, path, key)
            continue
        held = measure(path)
        info = SnapshotInfo(
            ref=header.ref,
            files=len(header.files),
            bytes=sum(file[1] or 0 for file in header.files),
            created="",
            source=header.source,
            is_credentialed=True,
            is_validated=False,
            is_immutable=False,
            identity="caller",
        )
        row = Row(
            key=key,
            revision=revision,
            info=info,
            state="ingest",
            allocated=held.allocated,
            inodes=held.inodes,
            planned=held.allocated,
            planned_inodes=held.inodes,
            last_used=int(touched * 1e9),
        )
        found.rows.append((row, held.linked))


def _is_laid_out(path: Path, unpack: str) -> bool:
    """Whether what should be directories are, where they are."""
    names = ("tree", "archive") if unpack else ("tree",)
    return all(not (path / name).exists() or (path / name).is_dir() for name in names)


def _add_trash(found: Found, layout: Layout) -> None:
    for path in list(layout.trash.iterdir()):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
            continue
        held = measure_foreign(path)
        row = Row(
            key="",
            revision="",
            info=NOBODY,
            state="trash",
            allocated=held.allocated,
            inodes=held.inodes,
            place=path.name,
        )
        found.rows.append((row, held.linked))


def _read_state(found: Found, layout: Layout) -> None:
    found.pins.update(path.name for path in _files(layout.pins))
    for path in _files(layout.leases):
        try:
            found.leases.append(read_lease(path))
        except (OSError, ValueError) as error:
            log.warning("a lease is dropped: %s", error)
            _discard(path)
    for path in _files(layout.updates):
        try:
            found.updates[path.name] = take_up(path, found.currents.get(path.name))
        except (OSError, ValueError) as error:
            log.warning("what was known of an update is dropped: %s", error)
            _discard(path)


def _files(directory: Path) -> Iterator[Path]:
    for path in list(directory.iterdir()):
        if is_hex(path.name):
            yield path
        else:
            # The temporary file of a write that a kill cut short.
            _discard(path)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
