"""Another cachd before the origin's bytes.

What the model is, and that the caller may have it, the origin has said already. The upstream's
bytes go into the same ingest as the origin's: its manifest's block checksums are compared as they
come, and what the origin says of the files afterwards, as if all of them had come from there.
Whatever fails here, the origin has the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cachd.cache.resolve import ask_for
from cachd.errors import (
    AccessError,
    ContentError,
    DigestMismatch,
    NotFound,
    OriginError,
    UpstreamLoop,
    WorkerDied,
)
from cachd.fetch.job import UPSTREAM, FetchJob, is_upstream
from cachd.fetch.plan import block_count, done_blocks
from cachd.model import PlannedFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from cachd.cache.participant import Participant
    from cachd.cache.parts import Parts
    from cachd.cache.types import Priority
    from cachd.errors import CachdError
    from cachd.fetch.upstream import Held, Upstreams
    from cachd.model import Auth, ManifestFile, PartDone, Plan, Ref
    from cachd.store.ingest import Ingest
    from cachd.store.relief import Relief

log = logging.getLogger("cachd.flight")

T = TypeVar("T")

_ATTEMPTS = 2
"""Tries of a part: there is another place for it."""

_WRONG_MOST = 16
"""Blocks that may be wrong before nothing more is taken from that disk."""

_FAILURES = (OriginError, AccessError, NotFound, ContentError, WorkerDied, UpstreamLoop)


class Host(Protocol):
    """What is needed of the flight."""

    @property
    def is_private(self) -> bool: ...

    def present(self) -> Sequence[Participant]: ...

    def pinned(self, path: str) -> set[str]: ...

    def priority(self) -> Priority: ...

    def note_retry(self, cause: str, error: CachdError) -> None: ...


@dataclass(slots=True)
class Got:
    """What is in place: parts and whole files' digests by path."""

    done: dict[str, list[PartDone]] = field(default_factory=dict)
    sums: dict[str, dict[str, str]] = field(default_factory=dict)


class Nearby:
    """One flight's. ``job`` runs now; ``received`` bytes were sent by ``endpoint``."""

    def __init__(self, parts: Parts, ref: Ref, plan: Plan) -> None:
        self._parts = parts
        self._ref = ref
        self._plan = plan
        self._waiting: tuple[str, int] | None = None
        self._gave: set[str] = set()
        self.job: FetchJob | None = None
        self.received = 0
        self.endpoint = ""
        self.timings: dict[str, float] = {}
        if is_upstream(plan.mirror):
            self.endpoint = plan.mirror.removeprefix(UPSTREAM)

    @property
    def waits_at(self) -> str:
        """The id of the daemon that is fetching it for this one now."""
        return self._parts.upstreams.daemon_at(self._waiting[0]) if self._waiting else ""

    def share_of(self, fetched: int) -> int:
        """How many of the flight's bytes an upstream sent."""
        return fetched if is_upstream(self._plan.mirror) else self.received

    def progress(self, whole: dict[str, Any]) -> dict[str, Any]:
        """``whole``, the counters of a flight that hasn't begun at its origin, as they are now."""
        if self._waiting is not None:
            place, count = self._waiting
            whole = {**whole, "waiting": {"at": place.removeprefix(UPSTREAM), "bytes": count}}
        if self.job is None:
            return whole
        found = self.job.progress.to_json()
        for name, total in (("bytes", "total"), ("files_done", "files_total")):
            found[name] += max(0, whole[total] - (found[total] or 0))
            found[total] = whole[total]
        return {**whole, **found}

    async def fetch(
        self,
        host: Host,
        ingest: Ingest,
        journal: Callable[[Sequence[PartDone]], Awaitable[None]],
        relief: Relief,
    ) -> Got:
        """Everything that an upstream has of what is missing. Raises what the disk says."""
        got = Got({path: list(parts) for path, parts in ingest.done.items()})
        upstreams = self._parts.upstreams
        if self._plan.unpack or is_upstream(self._plan.mirror) or not upstreams.places:
            return got
        started = time.monotonic()

        async def keep(done: Sequence[PartDone]) -> None:
            await journal(done)
            for part in done:
                got.done.setdefault(part.path, []).append(part)

        for place in upstreams.places:
            if upstreams.is_distrusted(place, self._ref, self._plan.revision):
                continue
            files = missing(self._plan.files, got.done, ingest.linked)
            if not files:
                break
            result = await self._try(place, files, got, host, ingest.tree, keep, relief)
            self._parts.metrics.upstream_asked(result)
        self.timings["upstream"] = time.monotonic() - started
        return got

    async def once_more(self, fill: Callable[[], Awaitable[T]], unless: Callable[[], bool]) -> T:
        """What ``fill`` makes of the flight's ingest. Where the bytes contradict the origin, and
        an upstream gave some of them, it is not asked for this revision again, and everything is
        fetched anew."""
        try:
            return await fill()
        except DigestMismatch as error:
            if not self._gave:
                raise
            for place in self._gave:
                log.warning("%s gave wrong bytes: %s", place, error.message)
                self._parts.upstreams.distrust(place, self._ref, self._plan.revision)
            self._gave.clear()
            if unless():
                raise
            self.received, self.endpoint = 0, ""
            return await fill()

    async def _try(
        self,
        place: str,
        files: Sequence[PlannedFile],
        got: Got,
        host: Host,
        tree: Path,
        keep: Callable[[Sequence[PartDone]], Awaitable[None]],
        relief: Relief,
    ) -> str:
        if not self._parts.upstreams.is_called(place):
            return "held"
        received = 0
        try:
            held = await self._ask(place, host)
            if held is None:
                return "missing"
            near = await asyncio.to_thread(near_files, files, held, self._url(place))
            if not near:
                return "missing"
            job = await self._job(place, near, got, host, tree)
            job.on_parts, job.make_room = keep, relief
            log.info("%s: %d files are had from %s", self._ref.key, len(near), place)
            try:
                spoilt = await self._take(job, got)
            finally:
                received = job.progress.received
                self.received += received
                if received:
                    self._gave.add(place)
                    self.endpoint = place.removeprefix(UPSTREAM)
        except _FAILURES as error:
            log.warning("%s isn't had from %s: %s", self._ref.key, place, error.message)
            host.note_retry(error.code, error)
            return "part" if received else "failed"
        return "used" if len(near) == len(files) and not spoilt else "part"

    async def _ask(self, place: str, host: Host) -> Held | None:
        upstreams, ref, revision = self._parts.upstreams, self._ref, self._plan.revision
        held = await upstreams.look(place, ref, revision)
        if held is not None or not upstreams.may_fetch or host.is_private:
            return held
        body = body_for(ref, self._parts)
        if body is None:
            return None
        via = tuple(dict.fromkeys(name for p in host.present() for name in p.via))

        def told(count: int) -> None:
            self._waiting = (place, count)

        told(0)
        try:
            there = await upstreams.have_fetched(place, body, via, told)
        finally:
            self._waiting = None
        return await upstreams.look(place, ref, revision) if there == revision else None

    async def _job(
        self, place: str, files: Sequence[PlannedFile], got: Got, host: Host, tree: Path
    ) -> FetchJob:
        upstreams = self._parts.upstreams
        auth, connect = await upstreams.pass_to(place)
        claims = {f.path: f.digest.algorithm for f in self._plan.files if f.digest is not None}
        job = FetchJob(
            id=f"{self._ref.key}-{self._plan.revision}-upstream",
            origin=place,
            place="upstream",
            plan=replace(self._plan, files=tuple(files), auth=auth, connect=connect),
            tree=tree,
            done={file.path: tuple(got.done.get(file.path, ())) for file in files},
            also=lambda path: also(host.pinned(path), claims.get(path)),
            has_claims=False,
            wrong_most=_WRONG_MOST,
            attempts=_ATTEMPTS,
            priority=host.priority(),
            refresh_auth=lambda: renew(upstreams, place, job),
            on_parts=_keep_nothing,
            on_retry=host.note_retry,
        )
        return job

    async def _take(self, job: FetchJob, got: Got) -> set[str]:
        """Fetch what the job is of; the files that had a wrong block."""
        self.job = job
        try:
            result = await self._parts.mover.fetch(job)
        finally:
            self.job = None
        spoilt = {path for path, _ in job.wrong}
        got.sums.update({p: sums for p, sums in result.sums.items() if p not in spoilt})
        return spoilt

    def _url(self, place: str) -> Callable[[str], str]:
        return lambda path: self._parts.upstreams.url_of(
            place, self._ref, self._plan.revision, path
        )


async def _keep_nothing(done: Sequence[PartDone]) -> None:
    """Until it is known where to."""


async def renew(upstreams: Upstreams, place: str, job: FetchJob | None) -> Auth:
    """Another token than the one that was refused. Raises AccessError."""
    fresh, _ = await upstreams.pass_to(place)
    if job is not None and fresh.headers == job.auth.headers:
        raise AccessError(f"{place} refuses this daemon's token")
    return fresh


def body_for(ref: Ref, parts: Parts) -> dict[str, Any] | None:
    """The ask for just this ref that needs no pass, for another daemon; None if there is none."""
    ask = ask_for(ref, parts.resolver)
    if ask is None:
        return None
    given = ask.options
    options = {
        "endpoint": given.endpoint,
        "addressing": given.addressing,
        "registry": given.registry,
    }
    return {
        "uri": ref.uri,
        "allow": list(ref.allow),
        "ignore": list(ref.ignore),
        "options": {name: value for name, value in options.items() if value},
        "credentials": {"anonymous": True},
    }


def missing(
    files: Sequence[PlannedFile],
    done: Mapping[str, Sequence[PartDone]],
    linked: Collection[str],
) -> list[PlannedFile]:
    """Those of known size that aren't whole yet. Pure."""
    return [
        file
        for file in files
        if file.size
        and file.path not in linked
        and len(done_blocks(file.size, done.get(file.path, ()))) < block_count(file.size)
    ]


def near_files(
    files: Sequence[PlannedFile], held: Held, url: Callable[[str], str]
) -> tuple[PlannedFile, ...]:
    """Those of ``files`` that the upstream holds, as they are asked for there. Pure."""
    found = []
    for file in files:
        there = held.files.get(file.path)
        if there is None or there.size != file.size:
            continue
        if len(there.blocks) == block_count(there.size):
            found.append(replace(planned_at(there, url), digest=None))
    return tuple(found)


def planned_at(file: ManifestFile, url: Callable[[str], str]) -> PlannedFile:
    """A file of another cachd's manifest, as it is asked for there. Pure."""
    return PlannedFile(
        path=file.path,
        url=url(file.path),
        size=file.size,
        digest=next((d for d in file.digests if d.algorithm == "sha256"), None),
        blocks=file.blocks,
        noted_etag=file.etag,
    )


def also(wanted: Collection[str], claimed: str | None) -> set[str]:
    """The digests to compute on the way. crc64nvme comes of the blocks."""
    return {*wanted, *((claimed,) if claimed and claimed != "crc64nvme" else ())}
