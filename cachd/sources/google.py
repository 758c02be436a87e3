"""``gs://bucket[/path]``: Google Cloud Storage, by its JSON API."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cachd.sources.google_location import locate_gs, parse_gs
from cachd.sources.trust import connect_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from cachd.credentials import SourceOptions
    from cachd.model import Auth, Connect, Plan
    from cachd.settings import SourcesSettings
    from cachd.sources.base import Location, SourceContext, SourceRequest
    from cachd.sources.google_listing import GoogleClient
    from cachd.sources.tokens import Tokens


class GoogleSource:
    """The ``Source`` of ``gs://``.

    A caller's key or headers, or the daemon's own identity; else requests carry no token.
    """

    schemes = ("gs",)

    def __init__(self) -> None:
        self._kept: Tokens | None = None

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """See ``google_location``. Raises UriInvalid."""
        return locate_gs(uri, options, settings.gs, environ)

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """The objects that the URI names now, each with its URL, size, generation and digest."""
        from cachd.sources.google_listing import plan_model  # noqa: PLC0415  (heavy)

        async with self._open(request, context) as client:
            return await plan_model(client, request.allow, request.ignore)

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """Look at the object with the caller's pass."""
        from cachd.sources.google_listing import read_check  # noqa: PLC0415

        async with self._open(request, context) as client:
            await read_check(client, plan_file)

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """A new token, for what the last one was got by."""
        from cachd.sources.google_identity import pass_of  # noqa: PLC0415  (heavy)

        connect = await self._connect(request, context)
        identity = await pass_of(request, context, connect, self._tokens(), fresh=True)
        return identity.auth(request.location.options.endpoint or "")

    @asynccontextmanager
    async def _open(
        self, request: SourceRequest, context: SourceContext
    ) -> AsyncIterator[GoogleClient]:
        from cachd.sources.google_identity import pass_of  # noqa: PLC0415  (heavy)
        from cachd.sources.google_listing import GoogleClient  # noqa: PLC0415
        from cachd.sources.http_client import client_for  # noqa: PLC0415

        connect = await self._connect(request, context)
        identity = await pass_of(request, context, connect, self._tokens())
        async with client_for(request, context, connect, request.used_credentials) as http:
            yield GoogleClient(
                http=http,
                endpoint=request.location.options.endpoint or "",
                address=parse_gs(request.location.uri),
                identity=identity,
                connect=connect,
            )

    @staticmethod
    async def _connect(request: SourceRequest, context: SourceContext) -> Connect:
        return await connect_of(request.location.options, ca_bundle=context.settings.gs.ca_bundle)

    def _tokens(self) -> Tokens:
        from cachd.sources.tokens import Tokens  # noqa: PLC0415

        if self._kept is None:
            self._kept = Tokens()
        return self._kept
