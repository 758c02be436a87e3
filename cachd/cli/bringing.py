"""One model from the daemon into a destination: view, else copy; else without the daemon."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cachd.cli import views
from cachd.cli.asking import LeaseKeeper, ask
from cachd.cli.manifest import fetch_wanted
from cachd.cli.materialise import Materialised, Materialiser
from cachd.errors import (
    CachdError,
    DaemonUnreachable,
    DiskFull,
    InvalidError,
    NoSpace,
    NotFound,
    NotReady,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.cli.ambient import Passes
    from cachd.cli.client import Client
    from cachd.cli.progress import Display
    from cachd.cli.views import ViewWish

WAIT_DAEMON = 30.0
"""Seconds for a daemon that is away, where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a model is to come. ``keep``: the lease stays. Seconds, None: no limit."""

    destination: Path | None
    view: ViewWish | None = None
    wait_daemon: float = WAIT_DAEMON
    timeout: float | None = None
    hard_link: bool = False
    verify: bool = False
    keep: bool = False
    fallback: bool = False


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
            passes, destination, display, timeout=wishes.timeout, verify=wishes.verify
        )


class _Unhelpful(Exception):
    """The daemon can't give the model, for reasons of its own."""

    def __init__(self, error: CachdError) -> None:
        super().__init__(error.message)
        self.error = error


def _from_daemon(
    client: Client, passes: Passes, wishes: Wishes, display: Display
) -> tuple[dict[str, Any], Materialised | None]:
    is_last = False
    while True:
        answer = _ask(client, passes, wishes, display)
        if wishes.destination is None:
            return answer, None
        try:
            return answer, _materialise(client, answer, wishes, wishes.destination, display)
        except NotFound as error:
            # The snapshot went while it was copied: a daemon that lost its leases.
            if is_last:
                raise
            is_last = True
            display.say(f"{error.message}; asking again")
        except DaemonUnreachable as error:
            raise _Unhelpful(error) from error


def _ask(client: Client, passes: Passes, wishes: Wishes, display: Display) -> dict[str, Any]:
    view = wishes.view
    passes.set(view=view.to_json() if view else None)
    try:
        return ask(
            client,
            passes,
            display,
            wait_daemon=wishes.wait_daemon,
            timeout=wishes.timeout,
        )
    except InvalidError as error:
        if view is None or view.is_must or not views.is_unknown(error):
            raise
        display.say("this daemon knows no views: the model is copied")
        return _ask(client, passes, replace(wishes, view=None), display)
    except (DaemonUnreachable, NotReady, NoSpace, DiskFull) as error:
        raise _Unhelpful(error) from error


def _materialise(
    client: Client,
    answer: dict[str, Any],
    wishes: Wishes,
    destination: Path,
    display: Display,
) -> Materialised:
    run = Materialiser(
        client,
        answer,
        destination,
        display,
        hard_link=wishes.hard_link,
        verify=wishes.verify,
        wait_daemon=wishes.wait_daemon,
    )
    with LeaseKeeper(client, answer.get("lease"), keep=wishes.keep):
        done = views.shown(client, wishes.view, answer, destination) if wishes.view else None
        done = done or run.already_there()
        return done or run.run(fetch_wanted(client, answer, blocks=wishes.verify))
