"""One row per route: what registers it is also what documents it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from cachd.errors import CachdError
    from cachd.settings import Verb

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or header."""

    name: str
    schema: Schema
    description: str
    where: str = "query"
    is_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer: status, what it means, and its content by media type (None: no body)."""

    status: int
    description: str
    content: dict[str, Schema] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """``name`` is the operation id and the label in metrics.

    ``is_admin``: not for pods, unless a rule allows them ``verb``. ``is_health``: also on the
    health listener. ``is_for_peers``: other daemons may call it, who read what is cached, and ask.
    ``is_ask``: refused while the daemon drains. ``errors``: what it may answer besides what every
    route may.
    """

    method: str
    path: str
    name: str
    handler: Handler
    summary: str
    replies: tuple[Reply, ...]
    description: str = ""
    is_admin: bool = False
    verb: Verb = "admin"
    is_health: bool = False
    is_for_peers: bool = False
    is_ask: bool = False
    parameters: tuple[Parameter, ...] = ()
    body: dict[str, Schema] = field(default_factory=dict)
    is_body_required: bool = True
    errors: tuple[type[CachdError], ...] = ()
    http_errors: tuple[int, ...] = ()

    @property
    def pattern(self) -> str:
        """The path as the router takes it: a file's path may have slashes."""
        return self.path.replace("{path}", "{path:.+}")
