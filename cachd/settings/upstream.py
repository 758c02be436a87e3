"""Another cachd to take models from, and models to have without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from cachd.settings.values import Duration, Section, is_server_url


class UpstreamSettings(Section):
    """Another cachd (a neighbour, a mirror per zone) that is asked before an origin's bytes are
    fetched. What may be had, and by whom, the origin still decides."""

    endpoints: tuple[str, ...] = ()
    """`https://host:port` of other daemons' `listen.api.address`, tried in this order. Empty: none.
    In the environment: JSON."""

    allow_http: bool = False
    """Take `http://` endpoints as well: the token then goes over the wire as it is."""

    token_file: Path | None = None
    """File holding the bearer token of the endpoints' `listen.api.token_file`. Read again when it
    changes."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities. Read again when it changes."""

    timeout: Annotated[float, Field(gt=0)] = 5.0
    """Seconds for connecting, and for the answer to the question whether a model is there. Bytes
    are judged as those of an origin: `fetch.stall_window`."""

    fetch: bool = False
    """Have the upstream fetch what it doesn't hold, if that needs no credentials, and wait for it:
    a zone then fetches once. Off, only what it holds is taken from it."""

    only: bool = False
    """This node has no way to the origins: what the upstream shows is the model. What needed
    credentials is then given to nobody, unless `access.open_hits` is set."""

    @field_validator("endpoints")
    @classmethod
    def _endpoints_are_urls(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in endpoints:
            if not is_server_url(endpoint):
                raise ValueError("an endpoint looks like https://cachd.zone-a.example:8443")
        return tuple(dict.fromkeys(endpoint.rstrip("/") for endpoint in endpoints))

    @model_validator(mode="after")
    def _is_whole(self) -> UpstreamSettings:
        if self.endpoints and self.token_file is None:
            raise ValueError("an upstream wants its token: set token_file")
        if not self.allow_http and any(e.startswith("http://") for e in self.endpoints):
            raise ValueError("an upstream is https, unless allow_http is set")
        if self.only and not self.endpoints:
            raise ValueError("only needs endpoints")
        return self


class PrefetchRule(Section):
    """One entry of `prefetch`."""

    uri: Annotated[str, Field(min_length=1)]
    """What to have, as in a request."""

    allow: tuple[str, ...] = ()
    """Patterns of files to take; empty: all."""

    ignore: tuple[str, ...] = ()
    """Patterns of files to leave out."""

    pin: bool = False
    """Pin it: it isn't evicted until somebody unpins it, also when the rule is gone."""

    every: Duration | None = None
    """Seconds between looks at the source, or a number with a unit: 90s, 15m, 6h, 1d. None: it is
    fetched once after each start."""
