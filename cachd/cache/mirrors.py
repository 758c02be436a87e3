"""Other endpoints that have an origin's models, by configuration. Pure.

The administrator vouches for a mirror: what it shows is the model, under the origin's key. Nobody's
pass goes there unless its rule says so, and no caller's idea of whom to trust.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cachd import globs
from cachd.cache.access import ANONYMOUS, DAEMON
from cachd.fetch.job import is_upstream
from cachd.sources.endpoints import endpoint_of

if TYPE_CHECKING:
    from cachd.cache.access import Principal
    from cachd.cache.resolve import Asked
    from cachd.fetch.job import Place
    from cachd.model import Named, Ref
    from cachd.settings import MirrorRule, SourcesSettings
    from cachd.sources.base import Location

_NAMED = ("s3", "hf", "modelscope")
"""Those whose origins say their source before the endpoint."""

_WITH_MIRRORS = (*_NAMED, "http", "https")


def places(asked: Asked, settings: SourcesSettings) -> list[Asked]:
    """The ask at its origin, and then at each mirror, in order; without those to be avoided."""
    found = {"": asked}
    if asked.location.scheme in _WITH_MIRRORS:
        for rule in settings.mirrors:
            if matches(rule.match, asked.location):
                for endpoint in rule.endpoints:
                    found.setdefault(endpoint, _at(asked, endpoint, rule))
    return [place for endpoint, place in found.items() if endpoint not in asked.avoid]


def place(asked: Asked, endpoint: str, settings: SourcesSettings) -> Asked:
    """The ask at one of its places, "" for the origin; ``asked`` if it has no such mirror."""
    everywhere = places(replace(asked, avoid=frozenset()), settings)
    return next((one for one in everywhere if one.location.mirror == endpoint), asked)


def matches(pattern: str, ref: Ref | Location) -> bool:
    """Whether ``pattern`` means the ref, or what a registry's leads to: by its URI, or by its
    origin's endpoint."""
    endpoint = endpoint_of(ref.origin)
    return globs.matches(pattern, ref.uri) or globs.matches(pattern, endpoint)


def server_of(ref: Ref | Named, mirror: str) -> str:
    """The server that is called, as connections and breakers know it: what is trusted there makes
    no other server of it."""
    if is_upstream(mirror):
        return mirror
    if mirror:
        source = ref.uri.partition("://")[0]
        return f"{source}+{mirror}" if source in _NAMED else mirror
    return ref.origin.partition("#")[0]


def place_of(mirror: str) -> Place:
    """What metrics call the place of a plan."""
    if is_upstream(mirror):
        return "upstream"
    return "mirror" if mirror else "origin"


def _at(asked: Asked, endpoint: str, rule: MirrorRule) -> Asked:
    options = replace(asked.location.options, verify=None, ca_pem=None, accelerate=None)
    return replace(
        asked,
        location=replace(asked.location, mirror=endpoint, options=options),
        principal=_principal(asked.principal, rule),
    )


def _principal(own: Principal, rule: MirrorRule) -> Principal:
    if rule.identity == "caller" or (rule.identity == "daemon" and own == DAEMON):
        return own
    return ANONYMOUS
