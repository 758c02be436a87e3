"""The bytes of a file against what its origin claims of them. For the event loop; workers read and
ask."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cachd.fetch import crc
from cachd.fetch.claims import Composite, Facts, claim_to_check, equal_parts, mismatch
from cachd.model import Digest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from cachd.errors import CachdError
    from cachd.fetch.claims import Claim
    from cachd.fetch.filestate import FileState
    from cachd.fetch.job import FetchJob
    from cachd.fetch.localtasks import LocalTasks

log = logging.getLogger("cachd.fetch")

ARCHIVE_ALGORITHM = "sha256"
"""Computed of an archive that is the model: it is gone once it is unpacked, and a caller may pin it
later. Layers and packs that a model is made of aren't its files, and nobody pins them."""


class Verification:
    """One job's. ``close`` ends a file, ``fail`` the job; ``spawn`` runs what the job owns."""

    def __init__(
        self,
        job: FetchJob,
        tasks: LocalTasks,
        *,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        close: Callable[[FileState], None],
        fail: Callable[[CachdError], None],
    ) -> None:
        self._job = job
        self._tasks = tasks
        self._spawn = spawn
        self._close = close
        self._fail = fail

    def may_be_told(self, file: FileState) -> bool:
        """S3 tells a checksum of the whole object to HEAD, and to a GET of all of it."""
        return self._job.has_claims and self._job.is_s3 and file.planned.digest is None

    def trail(self, file: FileState) -> None:
        """A digest that takes a pass over the file follows its finished parts, from the first
        answer on, so that it ends shortly after the last."""
        if file.task is None and (file.is_told or not self.may_be_told(file)):
            claim = self._claim(file)
            if self._takes_a_pass(claim) or self._also(file):
                file.task = self._spawn(self._run(file), "verify")
        if file.task is not None:
            self._tasks.advance(file, file.advance_prefix())

    def finish(self, file: FileState) -> None:
        """All bytes are there."""
        if file.task is not None:
            return
        if self._is_unasked(file) or self._is_archive:
            file.task = self._spawn(self._run(file), "verify")
            return
        claim = None if file.verified is not None else self._claim(file)
        if isinstance(claim, Digest) and (claim.algorithm == "crc64nvme" or not file.size):
            self._compare(file, claim, _sum_of_blocks(file, claim.algorithm))
        elif claim is None:
            self._close(file)
        else:
            file.task = self._spawn(self._run(file), "verify")

    def _claim(self, file: FileState) -> Claim | None:
        if not self._job.has_claims:
            return None
        return claim_to_check(file.planned.digest, file.facts, takes_etags=self._job.takes_etags)

    @staticmethod
    def _takes_a_pass(claim: Claim | None) -> bool:
        return claim is not None and claim.algorithm != "crc64nvme"

    def _also(self, file: FileState) -> set[str]:
        """What else is wanted of it, whatever the origin claims."""
        also = set(self._job.also(file.planned.path))
        return also | {ARCHIVE_ALGORITHM} if self._is_archive else also

    @property
    def _is_archive(self) -> bool:
        return self._job.plan.unpack in ("tar", "zip")

    def _is_unasked(self, file: FileState) -> bool:
        """Its parts are all from the journal: whoever fetched them ended before it was verified."""
        return (
            file.facts is None
            and file.verified is None
            and file.planned.digest is None
            and not file.planned.post
            and bool(file.size)
            and file.planned.path not in self._job.linked
            and self._job.has_claims
            and file.planned.url.startswith(("http://", "https://"))
        )

    # --- a pass over the file --------------------------------------------------------------------

    async def _run(self, file: FileState) -> None:
        if file.is_complete and self._is_unasked(file):
            answer = await self._tasks.run(self._job.id, {"kind": "facts", **_question(file)})
            file.facts = Facts.from_wire(answer["facts"]) if answer["facts"] else Facts()
        claim = None if file.verified is not None else self._claim(file)
        if isinstance(claim, Composite):
            seen = await self._sum_parts(file, claim)
            claim = None if seen is None else claim.digest
            await self._sum(file, None)
        else:
            seen = await self._sum(file, claim)
        if not file.is_complete:
            # It was begun again as a stream, in which its digest is checked.
            file.task = None
        elif claim is None or seen is None:
            self._close(file)
        else:
            self._compare(file, claim, seen)

    async def _sum(self, file: FileState, claim: Digest | None) -> str | None:
        """``claim``'s digest of the file, and besides what else is wanted of it."""
        wanted = self._also(file)
        if claim is not None:
            wanted.add(claim.algorithm)
        if file.size:
            wanted.discard("crc64nvme")
            wanted -= file.sums.keys()
        algorithms = sorted(wanted)
        if algorithms:
            file.sums.update(zip(algorithms, await self._read(file, algorithms), strict=True))
        if claim is None:
            return None
        if claim.algorithm == "crc64nvme":
            return _sum_of_blocks(file, claim.algorithm) if file.is_complete else None
        return file.sums[claim.algorithm]

    async def _read(
        self, file: FileState, algorithms: list[str], parts: tuple[int, ...] = ()
    ) -> list[str]:
        order = {
            "kind": "digest",
            "path": file.planned.path,
            "size": file.size,
            "algorithms": algorithms,
            "parts": parts,
        }
        answer = await self._tasks.run(self._job.id, order, file)
        values: list[str] = answer["values"]
        return values

    async def _sum_parts(self, file: FileState, claim: Composite) -> str | None:
        """The composite as it is for these bytes; None if the sizes of the parts can't be had.

        A match under a guess is a proof, a difference is not: then every part is asked for.
        """
        assert file.size is not None
        guess: tuple[int, ...] | None = (file.size,) if claim.count == 1 else None
        if guess is None:
            first = await self._ask_sizes(file, claim, first_only=True)
            guess = equal_parts(file.size, first[0], claim.count) if first else None
        value = None if guess is None else await self._sum_of_parts(file, claim, guess)
        was_begun_again = value is not None and not file.is_complete
        if claim.count > 1 and value != claim.digest.value and not was_begun_again:
            sizes = await self._ask_sizes(file, claim, first_only=False)
            if not sizes or len(sizes) != claim.count or sum(sizes) != file.size:
                log.info("%s: the sizes of its parts can't be had", file.planned.path)
                return None
            if sizes != guess:
                value = await self._sum_of_parts(file, claim, sizes)
        return value

    async def _sum_of_parts(self, file: FileState, claim: Composite, sizes: tuple[int, ...]) -> str:
        (value,) = await self._read(file, [claim.algorithm], sizes)
        return f"{value}-{claim.count}"

    async def _ask_sizes(
        self, file: FileState, claim: Composite, *, first_only: bool
    ) -> tuple[int, ...] | None:
        count = 1 if first_only else claim.count
        order = {"kind": "parts", "count": count, **_question(file)}
        sizes = (await self._tasks.run(self._job.id, order))["sizes"]
        return tuple(sizes) if sizes else None

    def _compare(self, file: FileState, digest: Digest, value: str) -> None:
        if value != digest.value:
            self._fail(mismatch(file.planned.path, digest, value))
            return
        file.verified = digest
        self._close(file)


def _question(file: FileState) -> dict[str, Any]:
    planned, validator = file.planned, file.planned.validator
    return {
        "path": planned.path,
        "url": planned.url,
        "size": file.size,
        "etag": validator.etag,
        "last_modified": validator.last_modified,
        "version_id": validator.version_id,
    }


def _sum_of_blocks(file: FileState, algorithm: str) -> str:
    if not file.size:
        return crc.sum_empty(algorithm)
    return crc.combine(file.block_list(), file.size)
