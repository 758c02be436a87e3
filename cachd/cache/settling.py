"""Between the last byte and publication: the pins of all who take part, and what is kept of bytes
that are wrong."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from cachd.cache.digest_checks import ARCHIVE as ARCHIVE_NOTE
from cachd.cache.digest_checks import ARCHIVE_SHA256, with_digests
from cachd.cache.digest_pins import MODEL_ALGORITHM, judge, model_lines, needed
from cachd.cache.uninterrupted import uninterrupted
from cachd.errors import DigestMismatch
from cachd.fetch.tree import ARCHIVE
from cachd.fetch.verification import ARCHIVE_ALGORITHM
from cachd.store.quarantine import Story

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from cachd.cache.digest_pins import Sums
    from cachd.cache.participant import Participant
    from cachd.cache.parts import Parts
    from cachd.fetch.job import FetchJob, FetchResult
    from cachd.model import ManifestFile, Plan, Ref
    from cachd.store.ingest import Ingest
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.flight")

_ROUNDS = 8
"""Times that pins of newcomers are taken up; later ones are judged after publication."""


async def fetch_checked(parts: Parts, ref: Ref, ingest: Ingest, job: FetchJob) -> FetchResult:
    """``Mover.fetch``; a file that contradicts what its source says of it goes to quarantine."""
    try:
        return await parts.mover.fetch(job)
    except DigestMismatch as error:
        parts.metrics.mismatched("source")
        await keep_wrong_file(parts, ref, ingest, error, reason="the source's digest")
        raise


async def settle_pins(
    parts: Parts,
    ref: Ref,
    ingest: Ingest,
    result: FetchResult,
    present: Callable[[], Sequence[Participant]],
    remove: Callable[[Participant], None],
    close: Callable[[], None],
) -> tuple[ManifestFile, ...]:
    """The files to publish, with the digests that pins have confirmed.

    ``present`` are those who take part just now; each whose pins the bytes contradict fails, and
    is removed. If nobody is left who may have the bytes, ``close`` keeps others from joining, what
    was contradicted goes to quarantine, and the first one's DigestMismatch is raised.
    """
    files, paths = result.files, [file.path for file in result.files]
    # Of an archive the digests are its own, not those of the files that it held.
    archive = result.sums if ingest.is_archive else {}
    known = {} if ingest.is_remade else result.sums
    judged: set[Participant] = set()
    confirmed: Sums = {}
    refused: list[tuple[Participant, DigestMismatch]] = []
    sums: Sums = {}
    for _ in range(_ROUNDS):
        new = [p for p in present() if p.pins and p not in judged]
        if not new:
            break
        sums = await parts.pinning.sums(ingest.tree, files, [p.pins for p in new], known)
        sums = {**archive, **sums}
        judged.update(new)
        for participant in new:
            error = judge(participant.pins, sums, paths)
            if error is not None:
                remove(participant)
                refused.append((participant, error))
                continue
            for path, algorithms in needed([participant.pins], files).items():
                for algorithm in algorithms:
                    confirmed.setdefault(path, {})[algorithm] = sums[path][algorithm]
    is_wanted = bool(present()) or not refused
    if not is_wanted:
        close()
        await _keep(parts, ref, ingest, refused[0][1], sums, paths)
    for participant, error in refused:
        log.warning("%s: %s", ref.key, error.message)
        participant.refusal = error
        if is_wanted:
            participant.fail(error)
    if not is_wanted:
        raise refused[0][1]
    return with_digests(files, confirmed)


async def commit(
    parts: Parts,
    ref: Ref,
    plan: Plan,
    ingest: Ingest,
    files: Sequence[ManifestFile],
    result: FetchResult,
    keep: ExitStack,
) -> StoredSnapshot:
    """Publish what was fetched; whoever goes away meanwhile, it is seen through. Raises as
    ``Ingest.commit`` does."""
    work = parts.updates.commit(
        ingest, ref, plan, files, metadata=archive_notes(plan, result), keep=keep
    )
    return await uninterrupted(work, f"commit {ref.key}")


def archive_notes(plan: Plan, result: FetchResult) -> dict[str, str]:
    """The plan's metadata, and of an archive its digest: the archive itself is not kept."""
    notes = dict(plan.metadata)
    if plan.unpack in ("tar", "zip"):
        path = plan.files[0].path
        notes |= {ARCHIVE_NOTE: path, ARCHIVE_SHA256: result.sums[path][ARCHIVE_ALGORITHM]}
    return notes


async def _keep(
    parts: Parts,
    ref: Ref,
    ingest: Ingest,
    error: DigestMismatch,
    sums: Sums,
    paths: Sequence[str],
) -> None:
    """The file; for a model digest the lines that it was computed of."""
    parts.metrics.mismatched("pin")
    if error.detail["path"] is not None:
        await keep_wrong_file(parts, ref, ingest, error, reason="a caller's pin")
        return
    lines = {path: sums[path][MODEL_ALGORITHM] for path in paths}
    data = b"".join(model_lines(lines))
    story = _story(ref, ingest.revision, error, "", len(data), "a caller's pin")
    await parts.store.quarantine.keep(data, story)


async def keep_wrong_file(
    parts: Parts, ref: Ref, ingest: Ingest, error: DigestMismatch, *, reason: str
) -> None:
    """Move the file that ``error`` names from the ingest, which is aborted next, to quarantine."""
    path = error.detail.get("path")
    if not path or not error.detail.get("seen"):
        return
    quarantine = parts.store.quarantine
    for place in (ingest.tree / path, ingest.path / ARCHIVE / path):
        size = await asyncio.to_thread(_size, place)
        if size is not None:
            story = _story(ref, ingest.revision, error, path, size, reason)
            await quarantine.take(place, story)
            return
    # An archive is gone once it is unpacked: its story is left.
    await quarantine.keep(b"", _story(ref, ingest.revision, error, path, 0, reason))


def _size(place: Path) -> int | None:
    try:
        return place.lstat().st_size
    except OSError:
        return None


def _story(
    ref: Ref, revision: str, error: DigestMismatch, path: str, size: int, reason: str
) -> Story:
    return Story(
        key=ref.key,
        revision=revision,
        uri=ref.uri,
        path=path,
        offset=0,
        length=size,
        reason=reason,
        expected=str(error.detail.get("expected")),
        seen=str(error.detail.get("seen")),
    )
