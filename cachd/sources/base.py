"""The protocol that a scheme implements. One module a scheme; a third party adds one by an entry
point in the group ``cachd.sources`` (name: the scheme, object: a ``Source`` class).

``locate`` runs in the daemon and is pure. Everything else runs in the resolver process, so that a
source's libraries, memory and mistakes stay out of the daemon; import heavy libraries inside the
methods, not at the top of the module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cachd.credentials import Credentials, SourceOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.model import Auth, Identity, Plan
    from cachd.settings import SourcesSettings
    from cachd.sources.egress import EgressGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a URI leads, found without any I/O.

    ``scheme`` is the name that the source is found by again. ``uri`` is canonical: no options in
    the query, no user information, no ``cachd+``. ``origin`` is scheme and effective endpoint, such
    as ``s3+https://minio.example:9000`` or ``https://host``; before the ``+`` stands what metrics
    call it.
    ``is_default_origin``: what the daemon would use if the caller said nothing.
    ``options`` are the caller's with what the URI's query said merged in. ``secret_query`` is what
    the URI's query held of credentials, and ``uri`` doesn't. ``mirror``: the endpoint to call in
    the origin's place; what is named, and its revision, stay the same. ``registries``: whom to ask
    what the URI names, in this order, each as (name in the configuration or "", URL); where there
    are any, the location itself has no bytes.
    ``is_callers_server``: the URI itself says which registry, and none that is configured.
    """

    scheme: str
    uri: str
    origin: str
    is_default_origin: bool
    options: SourceOptions
    secret_query: str = field(default="", repr=False)
    mirror: str = ""
    is_callers_server: bool = False
    registries: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a registry says of a name: the URI of the artifact.

    ``options`` say how to reach it, where the registry knows: they beat the caller's.
    ``identity`` tells one state of the registry's entry from another. ``is_credentialed``: a pass
    was shown to the registry. ``is_at_registry``: the registry itself has the bytes, and takes the
    pass that it took for the question.
    """

    uri: str
    options: SourceOptions = SourceOptions()
    identity: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    is_credentialed: bool = False
    is_at_registry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """One call at a source, for one caller.

    ``identity`` says whose pass is used: the caller's ``credentials``, the daemon's own (its
    environment, its profile), or none.
    """

    location: Location
    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    identity: Identity = "anonymous"
    credentials: Credentials = field(default=Credentials(), repr=False)

    @property
    def used_credentials(self) -> Credentials:
        """The caller's if the caller's pass is used, else none."""
        return self.credentials if self.identity == "caller" else Credentials()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceContext:
    """What the daemon lends a source: settings, the egress guard, the daemon's environment."""

    settings: SourcesSettings
    egress: EgressGuard
    environ: Mapping[str, str]


class Source(Protocol):
    """One scheme, or a few that are the same.

    A source that keeps something open between calls may have ``async def aclose(self) -> None``.
    One whose locations have ``registries`` has ``async def name(self, request, context)`` that
    gives a ``Target``.
    """

    schemes: tuple[str, ...]

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Parse ``uri``. Pure. Raises UriInvalid saying which part is wrong."""
        ...

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """What the URI means now. Raises NotFound, AccessError, OriginError, PathUnsafe …"""
        ...

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """A cheap call that succeeds only if this caller may *read* ``plan_file`` (a path of the
        plan). Raises AccessError or NotFound if it may not, OriginError if nobody can say."""
        ...

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """Fresh credentials for a fetch that runs; the same caller, the same origin."""
        ...
