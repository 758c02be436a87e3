"""Who takes part in a flight, and how one that nobody's pass could finish ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.cache.digest_pins import DigestPins
from cachd.cache.naming import strongest
from cachd.errors import AccessError, OriginError
from cachd.fetch.breaker import verdict_of

if TYPE_CHECKING:
    from cachd.cache.resolve import Asked
    from cachd.cache.types import Priority
    from cachd.errors import CachdError
    from cachd.model import Auth, Identity
    from cachd.sources.base import SourceRequest


class FlightRefused(Exception):
    """The origin refused every pass that the flight had. Says nothing of one waiter's own pass:
    that may plan anew with it."""

    def __init__(self, error: AccessError) -> None:
        super().__init__(error.message)
        self.error = error


class EndpointFailed(Exception):
    """The endpoint that a flight used is down; another may have the same. ``place``: the ask at
    that endpoint."""

    def __init__(self, error: OriginError, endpoint: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.endpoint = endpoint
        self.place: Asked | None = None


def raise_for_waiter(error: BaseException | None, endpoint: str) -> None:
    """Raises FlightRefused or EndpointFailed where a waiter may go on after its flight's end."""
    if isinstance(error, AccessError):
        raise FlightRefused(error)
    if isinstance(error, OriginError) and verdict_of(error) in ("busy", "bad"):
        raise EndpointFailed(error, endpoint)


@dataclass(eq=False, kw_only=True)
class Participant:
    """Somebody who wants the model.

    ``failed`` is set when this participant alone can't have it. ``stays`` marks one that doesn't
    wait but wants the fetch to go on to its end. ``pins``: what it takes, and nothing
    else; ``refusal`` says why the bytes are not that. ``mirror``: the endpoint that its request and
    its pass are for, "" for the origin: at another they are never used. ``named_as``: whose pass
    the registry needed that named the model. ``via``: the daemons that it came through.
    """

    request: SourceRequest
    fingerprint: str
    auth: Auth
    is_credentialed: bool
    priority: Priority
    stays: bool = False
    pins: DigestPins = DigestPins()
    mirror: str = ""
    named_as: Identity = "anonymous"
    via: tuple[str, ...] = ()
    refreshed: bool = False
    refusal: CachdError | None = None
    failed: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def identity(self) -> Identity:
        """Whose pass was used for it, at the source or at the registry."""
        return strongest(self.request.identity, self.named_as)

    def allow_refresh(self) -> None:
        """Its pass may be had anew once more."""
        self.refreshed = False

    def fail(self, error: CachdError) -> None:
        """It can't have the model; the first reason stands."""
        if not self.failed.done():
            self.failed.set_exception(error)
            # One that doesn't wait reads it never.
            self.failed.add_done_callback(lambda failed: failed.exception())
