"""What sources of model hubs share: the grammar, the pass, the choice among listed files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from cachd.errors import ContentError, NotFound
from cachd.model import Plan, PlannedFile
from cachd.names import check_name, check_tree
from cachd.sources.census import Census
from cachd.sources.hub_location import locate_hub
from cachd.sources.patterns import is_wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from cachd.credentials import SourceOptions
    from cachd.model import Auth, Digest
    from cachd.settings import SourcesSettings
    from cachd.sources.base import Location, SourceContext, SourceRequest
    from cachd.sources.hub_client import Hub
    from cachd.sources.hub_uri import HubAddress
    from cachd.sources.hubs import HubNames

Listed = tuple[str, int, "Digest | None", str]
"""Path in the repository, size, digest, and the commit at which it is read."""


class HubSource(ABC):
    """One hub. Rights are a repository's as a whole there: who may read one file may read all."""

    names: ClassVar[HubNames]

    @property
    def schemes(self) -> tuple[str, ...]:
        return (self.names.scheme,)

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Raises UriInvalid in KServe's words."""
        own = getattr(settings, self.names.scheme)
        return locate_hub(uri, options, own, environ, self.names)

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """The files of the commit that the revision means now, each at that very commit."""
        async with self._open(request, context) as hub:
            return await self.plan(hub, request.allow, request.ignore)

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """Whether this caller may read a file; nothing of it is read."""
        async with self._open(request, context, many=False) as hub:
            for path in _places_of(hub.address, plan_file):
                if await self.may_read(hub, path):
                    return
        raise NotFound(f"{plan_file} is no longer in {request.location.uri}")

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """The caller's token is what the caller sent; the daemon's is read anew."""
        async with self._open(request, context) as hub:
            return hub.auth

    @abstractmethod
    async def plan(self, hub: Hub, allow: Sequence[str], ignore: Sequence[str]) -> Plan:
        """What the URI means now."""

    @abstractmethod
    async def may_read(self, hub: Hub, path: str) -> bool:
        """False if there is no such file. Raises what the hub says of who may not."""

    def _open(self, request: SourceRequest, context: SourceContext, *, many: bool = True) -> Hub:
        from cachd.sources.hub_client import Hub  # noqa: PLC0415  (heavy)

        return Hub(request, context, self.names, many=many)


def _places_of(address: HubAddress, plan_file: str) -> list[str]:
    """Where a file of the plan may be in the repository: a path that is a file is named by its
    base name."""
    if not address.path:
        return [plan_file]
    below = f"{address.path}/{plan_file}"
    is_itself = address.path.rpartition("/")[2] == plan_file
    return [address.path, below] if is_itself else [below]


async def choose(
    listed: AsyncIterator[Listed],
    hub: Hub,
    allow: Sequence[str],
    ignore: Sequence[str],
    url_of: Callable[[str, str], str],
) -> tuple[PlannedFile, ...]:
    """The wanted ones of the files at or below the address's path, sorted. Raises NotFound where
    there is none, PathUnsafe, ContentError."""
    address = hub.address
    prefix = f"{address.path}/" if address.path else ""
    census = Census(address.uri)
    found: list[PlannedFile] = []
    async for path, size, digest, commit in listed:
        is_itself = bool(address.path) and path == address.path
        if not is_itself and not path.startswith(prefix):
            raise ContentError(f"{hub.base} lists a file outside {address.uri}")
        name = path.rpartition("/")[2] if is_itself else path[len(prefix) :]
        if not is_itself and name and not is_wanted(name, allow, ignore):
            continue
        check_name(name)
        census.count(name)
        found.append(PlannedFile(path=name, url=url_of(path, commit), size=size, digest=digest))
    if not found:
        has_patterns = bool(allow or ignore)
        raise NotFound(
            f"Failed to fetch model. No model found in {address.uri}",
            hint="no file passes the allow and ignore patterns" if has_patterns else "",
        )
    found.sort(key=lambda file: file.path)
    check_tree(file.path for file in found)
    return tuple(found)


def quoted(path: str) -> str:
    """A path for a URL, its slashes kept."""
    return quote(os.fsencode(path))
