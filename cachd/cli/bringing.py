"""One model from the daemon into a destination: view, else copy; else without the daemon."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachd.cli import views
from cachd.cli.asking import LeaseKeeper, ask
from cachd.cli.manifest import fetch_wanted
from cachd.cli.materialise import Materialised, Materialiser
from cachd.cli.metadata_file import content
from cachd.cli.staging import check_place
from cachd.errors import (
    CachdError,
    DaemonUnreachable,
    DiskFull,
    Forbidden,
    InvalidError,
    NoSpace,
    NotFound,
    NotReady,
    StoreError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.cli.ambient import Passes
    from cachd.cli.client import Client
    from cachd.cli.layouts import HubCache
    from cachd.cli.metadata_file import MetadataFile
    from cachd.cli.progress import Display
    from cachd.cli.views import ViewWish

WAIT_DAEMON = 30.0
"""Seconds for a daemon that is away, where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a model is to come. ``keep``: the lease stays; ``forward``: identities of this
    environment may be used; ``layout``: None for the model's files as they are. Seconds, None: no
    limit."""

    destination: Path | None
    view: ViewWish | None = None
    metadata: MetadataFile | None = None
    wait_daemon: float = WAIT_DAEMON
    timeout: float | None = None
    hard_link: bool = False
    verify: bool = False
    keep: bool = False
    fallback: bool = False
    forward: bool = True
    layout: HubCache | None = None

    def place(
        self, destination: Path, answer: dict[str, Any]
    ) -> contextlib.AbstractContextManager[Path]:
        """Where the files of ``answer`` go: the destination, or what a layout makes of it."""
        if self.layout is None:
            return contextlib.nullcontext(destination)
        return self.layout.place(destination, answer)


def bring(
    client: Client, passes: Passes, wishes: Wishes, display: Display
) -> tuple[dict[str, Any], Materialised | None]:
    """The daemon's answer, and how the files came; None without a destination. Raises CachdErrors;
    then nothing of this run is left in the destination."""
    try:
        return _from_daemon(client, passes, wishes, display)
    except _Unhelpful as failure:
        error, destination = failure.error, wishes.destination
        if not wishes.fallback or destination is None or (wishes.view and wishes.view.is_must):
            raise error from None
        display.say(f"{error.message}; fetching the model here instead (fallback)")
        from cachd.cli.fallback import fetch_here  # noqa: PLC0415  (rarely needed)

        return fetch_here(
            passes,
            destination,
            display,
            timeout=wishes.timeout,
            verify=wishes.verify,
            forward=wishes.forward,
            metadata=wishes.metadata,
            place=wishes.place,
        )


class _Unhelpful(Exception):
    """The daemon can't give the model, for reasons of its own."""

    def __init__(self, error: CachdError) -> None:
        super().__init__(error.message)
        self.error = error


def _from_daemon(
    client: Client, passes: Passes, wishes: Wishes, display: Display
) -> tuple[dict[str, Any], Materialised | None]:
    destination = wishes.destination
    if wishes.view and destination:
        found = _by_view(client, passes, wishes, wishes.view, destination, display)
        if found is not None:
            return found
    if destination:
        # Now rather than after an hour's download.
        check_place(destination)
    is_last = False
    while True:
        answer = _ask(client, passes, wishes, display)
        if destination is None:
            if wishes.metadata is not None:
                _describe(client, answer, wishes.metadata)
            return answer, None
        try:
            return answer, _copy(client, answer, wishes, destination, display)
        except NotFound as error:
            # The snapshot went while it was copied: a daemon that lost its leases.
            if is_last:
                raise
            is_last = True
            display.say(f"{error.message}; asking again")
        except DaemonUnreachable as error:
            raise _Unhelpful(error) from error


def _by_view(
    client: Client,
    passes: Passes,
    wishes: Wishes,
    view: ViewWish,
    destination: Path,
    display: Display,
) -> tuple[dict[str, Any], Materialised] | None:
    """The answer and the view, if ``destination`` shows it; None: the model is to be copied."""
    lease = passes.get("lease")
    # A view is a lease itself; the one of a copy would end it soon.
    passes.set(view=view.to_json(), lease=lease if wishes.keep else None)
    try:
        answer = _ask(client, passes, wishes, display)
    except (InvalidError, Forbidden, StoreError, NoSpace) as error:
        if view.is_must:
            raise
        display.say(f"no view: {error.message}; the model is copied, if it can be had")
        return None
    finally:
        passes.set(view=None, lease=lease)
    done = views.shown(client, view, answer, destination)
    for note in done.notes if done else ():
        display.say(note)
    if done and wishes.metadata is not None:
        _describe(client, answer, wishes.metadata)
    return (answer, done) if done else None


def _describe(client: Client, answer: dict[str, Any], metadata: MetadataFile) -> None:
    """Where the model's own files aren't ours to write."""
    metadata.write(content(fetch_wanted(client, answer, blocks=False, entries=True)))


def _ask(client: Client, passes: Passes, wishes: Wishes, display: Display) -> dict[str, Any]:
    try:
        return ask(
            client,
            passes,
            display,
            wait_daemon=wishes.wait_daemon,
            timeout=wishes.timeout,
        )
    except (DaemonUnreachable, NotReady, NoSpace, DiskFull) as error:
        if isinstance(error, NoSpace) and passes.get("view"):
            raise
        raise _Unhelpful(error) from error


def _copy(
    client: Client,
    answer: dict[str, Any],
    wishes: Wishes,
    destination: Path,
    display: Display,
) -> Materialised:
    with (
        LeaseKeeper(client, answer.get("lease"), keep=wishes.keep),
        wishes.place(destination, answer) as place,
    ):
        run = Materialiser(
            client,
            answer,
            place,
            display,
            hard_link=wishes.hard_link,
            verify=wishes.verify,
            wait_daemon=wishes.wait_daemon,
            metadata=wishes.metadata,
        )
        done = run.already_there()
        if done is None:
            entries = wishes.metadata is not None
            wanted = fetch_wanted(client, answer, blocks=wishes.verify, entries=entries)
            done = run.run(wanted)
        elif wishes.metadata is not None:
            _describe(client, answer, wishes.metadata)
        return done
