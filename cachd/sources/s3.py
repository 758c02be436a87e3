"""``s3://bucket[/prefix]``: AWS and everything that speaks S3."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from cachd.errors import CachdError
from cachd.sources.s3_location import locate_s3

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from cachd.credentials import SourceOptions
    from cachd.model import Auth, Plan
    from cachd.settings import SourcesSettings
    from cachd.sources.base import Location, SourceContext, SourceRequest
    from cachd.sources.s3_client import ClientPool, S3Client
    from cachd.sources.s3_identity import DaemonChain

T = TypeVar("T")


class S3Source:
    """The ``Source`` of ``s3://``.

    A caller's keys and session token, no signature at all (``anonymous``), or the daemon's whole
    botocore chain; a daemon without credentials asks unsigned.
    """

    schemes = ("s3",)

    def __init__(self) -> None:
        self._chain: DaemonChain | None = None
        self._pool: ClientPool | None = None

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """See ``s3_location``. Raises UriInvalid."""
        return locate_s3(uri, options, settings.s3, environ)

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """The objects that the URI names now, each with its URL, size and ETag."""
        from cachd.sources.s3_listing import plan_model  # noqa: PLC0415  (heavy)

        return await self._call(
            request, context, lambda client: plan_model(client, request.allow, request.ignore)
        )

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """HEAD of the object with the caller's pass."""
        from cachd.sources.s3_listing import read_check  # noqa: PLC0415

        await self._call(request, context, lambda client: read_check(client, plan_file))

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """The daemon's credentials anew, from their source; a caller's are what the caller sent.

        Raises CredentialsExpired if the daemon's have ended and can't be refreshed.
        """
        from cachd.sources import s3_client, s3_identity  # noqa: PLC0415

        chain = self._daemon_chain()
        settings = context.settings.s3
        endpoint = s3_client.endpoint_of(request)
        try:
            session, identity = await s3_identity.pass_of(request, settings, chain, fresh=True)
            region = await s3_identity.region_for(request, endpoint, settings, session)
        except Exception as error:
            raise s3_client.failed(error, request) from error
        return s3_identity.require_alive(identity).auth(region)

    async def aclose(self) -> None:
        """Close the clients that are kept for the next call."""
        if self._pool is not None:
            await self._pool.aclose()

    def _daemon_chain(self) -> DaemonChain:
        from cachd.sources.s3_identity import DaemonChain  # noqa: PLC0415

        if self._chain is None:
            self._chain = DaemonChain()
        return self._chain

    async def _call(
        self,
        request: SourceRequest,
        context: SourceContext,
        act: Callable[[S3Client], Awaitable[T]],
    ) -> T:
        """``act`` with a client, and once more where the bucket is found to be in another region:
        its objects are fetched from that region's endpoint."""
        from cachd.sources.s3_client import (  # noqa: PLC0415
            ClientPool,
            moved_region,
            open_client,
        )

        if self._pool is None:
            self._pool = ClientPool(context.egress)
        chain, region = self._daemon_chain(), None
        while True:
            async with open_client(request, context, chain, self._pool, region=region) as client:
                try:
                    return await act(client)
                except CachdError:
                    raise
                except Exception as error:
                    elsewhere = moved_region(error, client.region)
                    if elsewhere is None or region is not None:
                        raise client.error(error) from error
            region = elsewhere
