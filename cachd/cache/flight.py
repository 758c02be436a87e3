"""One fetch of one revision of one ref, shared by everybody who wants it.

A flight knows the passes of all its participants. It uses one at a time: when that participant
goes, or the source refuses it, the next one's is used; one caller's bad credentials end that
caller's wait and nobody else's. When the last participant goes the flight lingers, then stops and
keeps its journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from typing import TYPE_CHECKING, Any, Literal

from cachd.cache.mirrors import place_of, server_of
from cachd.cache.nearby import Nearby, renew
from cachd.cache.participant import Participant, raise_for_waiter
from cachd.cache.patience import in_ingest, in_time, journal_of, with_relief
from cachd.cache.rechecking import recheck
from cachd.cache.settling import commit, fetch_checked, settle_pins
from cachd.errors import (
    AccessError,
    CachdError,
    Cancelled,
    InternalError,
    NotFound,
    OriginError,
)
from cachd.fetch.job import FetchJob, is_upstream
from cachd.fetch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.cache.parts import Parts
    from cachd.cache.types import Priority
    from cachd.model import Auth, Identity, Plan, Ref
    from cachd.store.ingest import Ingest
    from cachd.store.relief import Relief
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.flight")

Stage = Literal["queued", "fetching", "verifying"]


class Flight:
    """Runs once. ``done`` ends with the snapshot or the error; ``stage`` and ``progress`` tell how
    far it is."""

    def __init__(
        self,
        ref: Ref,
        plan: Plan,
        parts: Parts,
        on_end: Callable[[Flight, str | None], None],
        *,
        is_bound: bool = False,
    ) -> None:
        """``is_bound``: the plan's URLs are themselves the pass of who began (presigned ones), so
        that nobody else's can take its place; the others plan anew when that one goes."""
        self._is_bound = is_bound
        self.ref = ref
        self.plan = plan
        self.stage: Stage = "queued"
        self.timings: dict[str, float] = {}
        self.fetched_bytes = 0
        self.participants: list[Participant] = []
        self.retries: list[dict[str, Any]] = []
        self.done: asyncio.Future[StoredSnapshot] = asyncio.get_running_loop().create_future()
        self._parts = parts
        self._on_end = on_end
        self._job: FetchJob | None = None
        self.nearby = Nearby(parts, ref, plan)
        self._task: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._last: Participant | None = None
        self._passes: set[Identity] = set()
        self._kept = contextlib.ExitStack()
        self._cancel_reason: CachdError = Cancelled("the fetch was stopped")
        self.is_stopping = False
        # A flight that nobody waits for any more may fail without a reader.
        self.done.add_done_callback(_consume)

    @property
    def revision(self) -> str:
        return self.plan.revision

    @property
    def is_private(self) -> bool:
        """Whether a pass is or was needed."""
        return self.plan.is_credentialed or bool(self._passes)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"flight {self.ref.key}")
        # A task that is cancelled before its first step doesn't come to its own end.
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self.done.done():
            self._fail(self._cancel_reason)

    def progress(self) -> dict[str, Any]:
        """Counters for a progress event; totals are those of the plan until the fetch begins."""
        if self._job is not None:
            return self._job.progress.to_json()
        planned = Progress()
        planned.total, planned.files_total = self.plan.size, len(self.plan.files)
        return self.nearby.progress(planned.to_json())

    # --- who takes part ---------------------------------------------------------------------

    def join(self, participant: Participant) -> None:
        has_pass = bool(self._with_pass())
        self.participants.append(participant)
        if participant.mirror == self.plan.mirror:
            self._last = None
            if not has_pass:
                self._use(participant)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._adjust_priority()

    def leave(self, participant: Participant) -> None:
        """The participant goes away; with the last one the flight begins to linger."""
        if participant not in self.participants:
            return
        was_used = self._user() is participant
        self.participants.remove(participant)
        if self.done.done():
            self._let_go()
            return
        if self.participants:
            if was_used and self._is_bound:
                self.cancel(AccessError("the caller whose signed URL was used has gone"))
            elif was_used and (others := self._with_pass()):
                self._use(others[0])
            elif was_used:
                self._last = participant
            self._adjust_priority()
            return
        self._last = participant if was_used else self._last
        self._adjust_priority()
        self._linger = asyncio.get_running_loop().call_later(
            self._parts.settings.fetch.linger, self._stop_lingering
        )
        log.info("nobody waits for %s: the fetch lingers", self.ref.key)

    def _let_go(self) -> None:
        """What was published may be evicted once all who waited for it had time for a lease."""
        if all(participant.stays for participant in self.participants):
            self._kept.close()

    def _user(self) -> Participant | None:
        """Whose pass is in use: the first participant's; while it lingers, the last one's."""
        others = self._with_pass()
        return others[0] if others else self._last

    def _with_pass(self) -> list[Participant]:
        """Those whose pass is for the endpoint that is used."""
        return [p for p in self.participants if p.mirror == self.plan.mirror]

    def _use(self, participant: Participant) -> Auth:
        """The pass in use from now on. What is published remembers that one was needed."""
        if participant.is_credentialed:
            self._passes.add(participant.identity)
        if self._job is not None:
            self._job.set_auth(participant.auth)
        return participant.auth

    def _stop_lingering(self) -> None:
        self._linger = None
        self.cancel(Cancelled("nobody wants the model any more; what was fetched is kept"))

    def cancel(self, reason: CachdError) -> None:
        """Stop fetching, keep the journal; waiters get ``reason``."""
        self._cancel_reason = reason
        self.is_stopping = True
        if self._task is not None:
            self._task.cancel()

    async def wait_ended(self) -> None:
        """Until the flight's task is over and everything it held is let go."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _adjust_priority(self) -> None:
        job = self._job or self.nearby.job
        if job is not None:
            self._parts.mover.set_priority(job, self.priority())
        else:
            self._parts.slots.admit()

    def priority(self) -> Priority:
        wanted = {p.priority for p in self.participants}
        if "interactive" in wanted:
            return "interactive"
        return "scrub" if wanted == {"scrub"} else "prefetch"

    # --- credentials ------------------------------------------------------------------------

    async def _refresh_auth(self) -> Auth:
        """Other credentials, because the origin refused the ones in use (or they expired).

        First the same participant's, fresh; if those were fresh already, the next participant's.
        """
        refusal: CachdError = AccessError(
            "the origin refused the credentials while the model was being fetched",
            hint="check that they may read every file of the model, not only list it",
        )
        if is_upstream(self.plan.mirror):
            return await renew(self._parts.upstreams, self.plan.mirror, self._job)
        while True:
            participant = self._user()
            if participant is None:
                raise refusal
            if not participant.refreshed:
                participant.refreshed = True
                try:
                    participant.auth = await self._parts.resolver.authorize(participant.request)
                except (AccessError, NotFound, OriginError) as error:
                    # Some origins say of what one may not see that it isn't there.
                    refusal = error
                else:
                    asyncio.get_running_loop().call_later(30.0, participant.allow_refresh)
                    if participant is self._user():
                        return self._use(participant)
                    # It left meanwhile: its pass is no more to be used.
                    continue
            self._drop(participant, refusal)
            if (others := self._with_pass()) and not self._is_bound:
                return self._use(others[0])
            raise refusal

    def _drop(self, participant: Participant, error: CachdError) -> None:
        if participant in self.participants:
            self.participants.remove(participant)
        self._last = None
        self._parts.proofs.revoke_fingerprint(participant.fingerprint, self.ref)
        participant.fail(error)

    # --- pins -------------------------------------------------------------------------------

    def present(self) -> list[Participant]:
        """Who would get what is published; while it lingers, who was the last to want it."""
        return self.participants or [p for p in (self._last,) if p is not None]

    def _remove(self, participant: Participant) -> None:
        """The bytes are not what it takes; others may have them."""
        if participant in self.participants:
            self.participants.remove(participant)
        self._last = None

    def pinned(self, path: str) -> set[str]:
        """The algorithms of the pins on ``path``, as far as is known by now."""
        return {name for p in self.present() if p.pins for name in p.pins.algorithms(path)}

    def _close(self) -> None:
        self.is_stopping = True

    # --- the run ----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            snapshot = await self._fetch()
        except asyncio.CancelledError:
            self._fail(self._cancel_reason)
        except CachdError as error:
            log.warning("fetch of %s failed: %s: %s", self.ref.key, error.code, error.message)
            self._fail(error)
        except Exception as error:
            log.exception("fetch of %s failed", self.ref.key)
            self._fail(
                InternalError(
                    f"the fetch failed unexpectedly ({type(error).__name__})",
                    hint="the daemon's log has the details",
                )
            )
        else:
            self._on_end(self, None)
            self.done.set_result(snapshot)
        finally:
            self._let_go()
            if self._linger is not None:
                self._linger.cancel()

    def _fail(self, error: CachdError) -> None:
        self._on_end(self, error.code)
        if not self.done.done():
            self.done.set_exception(error)

    async def _fetch(self) -> StoredSnapshot:
        parts = self._parts
        started = time.monotonic()
        async with parts.slots.taken(self.priority):
            self.timings["queue"] = time.monotonic() - started
            self.stage = "fetching"
            with parts.updates.keeping(self.ref, self.plan):
                return await self.nearby.once_more(
                    lambda: in_ingest(parts.store, self.ref, self.plan, self._fetch_into),
                    unless=lambda: self.is_stopping,
                )

    async def _fetch_into(self, ingest: Ingest, relief: Relief) -> StoredSnapshot:
        parts = self._parts

        journal = journal_of(ingest, relief, self._mark)

        # Called from a worker's reader, which has another request's id in its context.
        context = contextvars.copy_context()

        async def grow(more: int) -> None:
            await asyncio.create_task(ingest.grow(more), context=context)

        async with in_time(self.ref.key, parts.settings.fetch.deadline):
            near = await self.nearby.fetch(self, ingest, journal, relief)
            job = FetchJob(
                id=f"{self.ref.key}-{self.revision}",
                origin=server_of(self.plan.named or self.ref, self.plan.mirror),
                place=place_of(self.plan.mirror),
                plan=self.plan,
                tree=ingest.tree,
                done=near.done,
                sums=near.sums,
                linked=ingest.linked,
                also=self.pinned,
                etags=parts.settings.fetch.verify_etags,
                priority=self.priority(),
                on_parts=journal,
                grow=grow,
                make_room=relief,
                refresh_auth=self._refresh_auth,
                on_retry=self.note_retry,
            )
            self._job = job
            user = self._user()
            if user is not None:
                self._use(user)  # Whoever made the plan may have left the queue.
            result = await fetch_checked(parts, self.ref, ingest, job)
            await recheck(parts, self.ref, self.plan, self._user())
        self.timings.update(self.nearby.timings, **result.timings)
        self.fetched_bytes = result.fetched_bytes + self.nearby.received
        self.stage = "verifying"
        files = await settle_pins(
            parts,
            self.ref,
            ingest,
            result,
            present=self.present,
            remove=self._remove,
            close=self._close,
        )
        await self._mark(ingest)
        published = time.monotonic()
        snapshot = await with_relief(
            relief,
            lambda: commit(parts, self.ref, self.plan, ingest, files, result, self._kept),
            unless=lambda: ingest.is_in_doubt,
        )
        self.timings["publish"] = time.monotonic() - published
        return snapshot

    async def _mark(self, ingest: Ingest) -> None:
        if self._passes:
            is_daemons = self._passes == {"daemon"}
            await ingest.mark_credentialed("daemon" if is_daemons else "caller")

    def note_retry(self, cause: str, error: CachdError) -> None:
        self.retries.append({"cause": cause, "code": error.code, "message": error.message})
        del self.retries[:-20]

    async def wait(self, participant: Participant, timeout: float) -> StoredSnapshot | None:
        """The snapshot; None if it isn't there after ``timeout`` seconds. Raises what ended the
        flight, or what ended it for this participant alone; FlightRefused if no pass was left;
        EndpointFailed if the endpoint is down."""
        ends: set[asyncio.Future[Any]] = {self.done, participant.failed}
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if participant.failed.done():
            participant.failed.result()
        if not self.done.done():
            return None
        if participant.refusal is not None:
            raise participant.refusal
        raise_for_waiter(self.done.exception(), self.plan.mirror)
        return self.done.result()


def _consume(future: asyncio.Future[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
