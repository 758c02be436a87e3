"""Asking for a model: the request, its progress, and a daemon that restarts in the middle."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from cachd.cli.client import path_of
from cachd.cli.patience import Patience, is_passing
from cachd.errors import (
    AccessError,
    CachdError,
    DaemonUnreachable,
    DeadlineExceeded,
    InternalError,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import TracebackType

    from cachd.cli.ambient import Passes
    from cachd.cli.client import Client
    from cachd.cli.progress import Display

COPY_LEASE_TTL = 120.0
"""Seconds; renewed while files are copied, so that a client that was killed holds on no longer."""

SILENCE = 60.0
"""Seconds without an event; then the connection is taken for dead, and the ask is repeated. The
daemon sends a heartbeat every few seconds."""

RENEW_PAUSE = 15.0
"""Seconds until the next try to get new credentials."""

_GRACE = 15.0


def own_holder() -> str:
    """Who holds a lease of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def ask(
    client: Client,
    passes: Passes,
    display: Display,
    *,
    wait_daemon: float,
    timeout: float | None = None,
) -> dict[str, Any]:
    """The answer to the ask of ``passes``, once the model is there.

    An ask may be repeated: the daemon has one fetch per model, which goes on without its callers
    for a while. A daemon that is away is waited for ``wait_daemon`` seconds each time. ``timeout``
    in seconds bounds the whole. Raises what the daemon says, DaemonUnreachable, DeadlineExceeded.
    """
    is_renewed = False
    deadline = None if timeout is None else time.monotonic() + timeout
    patience = Patience(wait_daemon)
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise DeadlineExceeded(
                f"the model was not there within {timeout:g} s",
                hint="the daemon may go on fetching it for a while; ask again",
            )
        silence = SILENCE if left is None else min(SILENCE, left + _GRACE)
        try:
            for event in _events(client, passes, display, left, silence):
                patience.succeeded()
                if event.get("event") == "ready":
                    return {name: value for name, value in event.items() if name != "event"}
                display.state.take(event)
            raise InternalError("the daemon's answer had no end")
        except AccessError:
            # The pod slept through the end of its credentials, or they were withdrawn.
            if is_renewed or not passes.is_due:
                raise
            is_renewed = True
        except CachdError as error:
            display.state.phase = "waiting for the daemon"
            is_late = deadline is not None and time.monotonic() >= deadline
            if not (is_late and isinstance(error, DaemonUnreachable)):
                if wait_daemon and not patience.is_waiting and is_passing(error):
                    display.say(f"{error.message}; waiting up to {wait_daemon:g} s for it")
                patience.pause(error)


def _events(
    client: Client, passes: Passes, display: Display, left: float | None, silence: float
) -> Iterator[dict[str, Any]]:
    """The events of an ask, over a second one as soon as the first one's credentials end soon.

    The second joins the fetch that the first one takes part in (the daemon has one per model)
    before the first one leaves it: the fetch goes on with the new credentials and never stops.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as open_asks:
        stream = _open(open_asks, client, passes.body(), left, started, silence)
        while (event := next(stream, None)) is not None:
            yield event
            if event.get("event") == "ready" or not passes.is_due:
                continue
            try:
                body = passes.body()
            except CachdError as error:
                passes.postpone(RENEW_PAUSE)
                display.say(f"{error.message}; the credentials in use end soon, trying again")
                continue
            with contextlib.ExitStack() as joining:
                fresh = _open(joining, client, body, left, started, silence)
                while (event := next(fresh, None)) is not None:
                    yield event
                    if event.get("event") not in ("resolving", "heartbeat"):
                        break
                open_asks.close()
                open_asks.push(joining.pop_all())
            stream = fresh


def _open(
    stack: contextlib.ExitStack,
    client: Client,
    body: dict[str, Any],
    left: float | None,
    started: float,
    silence: float,
) -> Generator[dict[str, Any], None, None]:
    if left is not None:
        left = max(0.001, left - (time.monotonic() - started))
        body = {**body, "timeout": round(left, 3)}
    events = client.events("/v1/models", body, timeout=silence)
    stack.callback(events.close)
    return events


class LeaseKeeper:
    """Renews a lease while the ``with`` block runs, and releases it at the end unless ``keep``."""

    def __init__(self, client: Client, lease: dict[str, Any] | None, *, keep: bool = False) -> None:
        self._client = client
        self._lease = lease
        self._keep = keep
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LeaseKeeper:
        if self._lease:
            self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is None or self._lease is None:
            return
        self._thread.join(5.0)
        try:
            if self._keep and error is None:
                self._client.call("PUT", self._path(), {"ttl": self._lease["ttl"]}, timeout=5.0)
            else:
                self._client.call("DELETE", self._path(), timeout=5.0)
        except CachdError:
            pass  # It ends by itself.

    def _renew(self) -> None:
        assert self._lease is not None
        ttl = float(self._lease["ttl"])
        while not self._stop.wait(max(0.2, ttl / 3)):
            try:
                self._client.call("PUT", self._path(), {"ttl": ttl}, timeout=5.0)
            except CachdError:
                continue  # A daemon that is away keeps leases; one that lost it can't be helped.

    def _path(self) -> str:
        assert self._lease is not None
        return path_of("models", str(self._lease["key"]), "leases", str(self._lease["id"]))
