"""One fetch, as its owner describes it, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cachd.fetch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from cachd.errors import CachdError, DiskFull
    from cachd.fetch.schedule import Priority
    from cachd.model import Auth, ManifestFile, PartDone, Plan


Place = Literal["origin", "mirror", "upstream"]


UPSTREAM = "cachd+"
"""Before the endpoint of another cachd, where it stands beside those of origins and mirrors."""


def is_upstream(place: str) -> bool:
    """Whether an endpoint is another cachd's."""
    return place.startswith(UPSTREAM)


async def _grow_nothing(count: int) -> None:
    """Where every size is known, nobody asks."""


async def _give_up(error: DiskFull) -> None:
    """Where nothing can be let go."""
    raise error


@dataclass(eq=False, kw_only=True)
class FetchJob:
    """``id`` is unique among the jobs that run. ``origin`` is what connections are limited by.

    ``done`` is what the journal has, or whole files that were linked, by path; ``linked`` are the
    paths of those. ``etags``: one that can be an MD5 is compared. ``also``: algorithms of
    digests that are wanted of a path besides.
    ``on_parts`` journals parts that are in place; awaited in batches, one at a time.
    ``grow`` reserves that many more bytes (sizes that aren't known, archives), or raises NoSpace.
    ``refresh_auth`` gives other credentials when the origin refused the present ones, or raises;
    called once for all parts at a time. ``make_room`` lets go of something so that what the disk
    had no room for can be tried again, or raises. ``on_retry`` hears of each retry: the error's
    code, and it. ``place``: who is called, in the origin's place if it is another.

    What is asked of an upstream before the origin is not finished by that: ``has_claims`` False
    leaves out what is said of the files; a block that isn't what it should be (``PlannedFile``)
    counts as ``wrong`` and is not journalled, up to ``wrong_most``. ``sums``: digests by path that
    were computed of whole files. ``attempts`` of a part, None: as configured.
    """

    id: str
    origin: str
    plan: Plan
    tree: Path
    on_parts: Callable[[Sequence[PartDone]], Awaitable[None]]
    refresh_auth: Callable[[], Awaitable[Auth]]
    grow: Callable[[int], Awaitable[None]] = _grow_nothing
    make_room: Callable[[DiskFull], Awaitable[None]] = _give_up
    on_retry: Callable[[str, CachdError], None] = lambda cause, error: None
    done: Mapping[str, Sequence[PartDone]] = field(default_factory=dict)
    linked: Collection[str] = ()
    also: Callable[[str], Collection[str]] = lambda path: ()
    etags: bool = True
    priority: Priority = "interactive"
    place: Place = "origin"
    has_claims: bool = True
    wrong_most: int = 0
    wrong: set[tuple[str, int]] = field(default_factory=set)
    sums: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attempts: int | None = None
    progress: Progress = field(default_factory=Progress)
    _auth: Auth | None = field(default=None, repr=False)
    _listener: Callable[[Auth], None] | None = field(default=None, repr=False)

    @property
    def auth(self) -> Auth:
        """The credentials that parts started from now on use."""
        return self._auth or self.plan.auth

    def set_auth(self, auth: Auth) -> None:
        """Use other credentials for the parts that are started from now on."""
        self._auth = auth
        if self._listener is not None:
            self._listener(auth)

    def listen(self, listener: Callable[[Auth], None] | None) -> None:
        """The mover's ear for ``set_auth``."""
        self._listener = listener

    @property
    def is_s3(self) -> bool:
        return self.auth.kind == "sigv4" or self.origin.startswith("s3")

    @property
    def takes_etags(self) -> bool:
        """Whether an ETag may be a digest."""
        return self.is_s3 and self.etags

    @property
    def source(self) -> str:
        """The scheme, a bounded label for metrics."""
        return "s3" if self.is_s3 else self.origin.partition("://")[0].partition("+")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """``files`` in the plan's order, or an archive's members by path. ``fetched_bytes`` came from
    the origin now. ``timings`` in seconds: ``fetch``, ``verify`` (after the last byte). ``sums``:
    digests that were computed of files of the plan, by path and algorithm."""

    files: tuple[ManifestFile, ...]
    fetched_bytes: int
    timings: dict[str, float]
    sums: dict[str, dict[str, str]] = field(default_factory=dict)
