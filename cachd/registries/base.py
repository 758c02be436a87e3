"""The protocol of a kind of registry. A registry turns a name into the URI of an artifact.

A third party adds a kind by an entry point in the group ``cachd.registries`` (name: the kind, which
is its URIs' scheme as well; object: a class that is a ``Registry``). ``parse`` and ``default_url``
run in the daemon and are pure; ``name`` runs in the resolver process, where ``server`` makes its
calls: with the right pass, guarded, and with errors that say who answered what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cachd.sources.base import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachd.registries.server import RegistryServer

__all__ = ["Entry", "Registry", "Target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a registry's URI names.

    ``host``: the registry, as ``host[:port]`` or by a configured name; "" where the URI names none.
    ``version``: one version's name; "" for the newest. ``alias``: a name that moves between
    versions. ``namespace``: where in a cluster the registry is, for kinds that know that.
    """

    host: str = ""
    model: str
    version: str = ""
    alias: str = ""
    namespace: str = ""


class Registry(Protocol):
    """One kind. ``kind`` is what the configuration calls it, ``schemes`` are its URIs'."""

    kind: str
    schemes: tuple[str, ...]

    def parse(
        self, scheme: str, path: str, query: Mapping[str, str], is_host: Callable[[str], bool]
    ) -> Entry:
        """What the URI ``scheme://path?query`` names; ``is_host``: whether a first part is the
        registry's host. Pure. Raises UriInvalid saying which part is wrong."""
        ...

    def default_url(self, entry: Entry, base: str, environ: Mapping[str, str]) -> str:
        """The registry of an entry that names none, by the environment; "" if that says nothing.
        ``base``: what the caller says. Pure."""
        ...

    async def name(self, entry: Entry, server: RegistryServer) -> Target:
        """What the entry means now. Raises NotFound, and what ``server`` raises."""
        ...
