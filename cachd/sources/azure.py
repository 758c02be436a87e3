"""Azure Blob Storage and Azure Files, by their REST APIs."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cachd.sources.azure_location import base_url, locate_azure, parse_azure
from cachd.sources.trust import connect_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from cachd.credentials import SourceOptions
    from cachd.model import Auth, Plan
    from cachd.settings import SourcesSettings
    from cachd.sources.azure_client import AzureClient
    from cachd.sources.azure_identity import Means
    from cachd.sources.base import Location, SourceContext, SourceRequest
    from cachd.sources.tokens import Tokens


class AzureSource:
    """The ``Source`` of Azure Storage's own https URLs, and of Hadoop's names for the same blobs.

    A caller's signature, key or application, or the daemon's own; else requests prove nothing.
    """

    schemes = ("azure", "abfs", "abfss", "wasb", "wasbs")

    def __init__(self) -> None:
        self._kept: Tokens | None = None

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """See ``azure_location``. Raises UriInvalid."""
        return locate_azure(uri, options, settings.azure)

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """What the URI names now, each file with its URL, size, ETag and MD5."""
        from cachd.sources.azure_blobs import plan_blobs  # noqa: PLC0415  (heavy)
        from cachd.sources.azure_files import plan_files  # noqa: PLC0415

        async with self._open(request, context) as client:
            plan = plan_blobs if client.address.service == "blob" else plan_files
            return await plan(client, request.allow, request.ignore)

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """HEAD with the caller's pass."""
        from cachd.sources.azure_blobs import check_blob  # noqa: PLC0415  (heavy)
        from cachd.sources.azure_files import check_file  # noqa: PLC0415

        async with self._open(request, context) as client:
            check = check_blob if client.address.service == "blob" else check_file
            await check(client, plan_file)

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """A new signature or token, by what the last one was made of."""
        from cachd.sources.azure_identity import pass_of  # noqa: PLC0415  (heavy)

        means = await self._means(request, context, fresh=True)
        return (await pass_of(request, means)).auth(means.base)

    @asynccontextmanager
    async def _open(
        self, request: SourceRequest, context: SourceContext
    ) -> AsyncIterator[AzureClient]:
        from cachd.sources.azure_client import AzureClient  # noqa: PLC0415  (heavy)
        from cachd.sources.azure_identity import pass_of  # noqa: PLC0415
        from cachd.sources.http_client import client_for  # noqa: PLC0415

        means = await self._means(request, context, fresh=False)
        identity = await pass_of(request, means)
        used = request.used_credentials
        async with client_for(request, context, means.connect, used) as http:
            yield AzureClient(
                http=http,
                base=means.base,
                address=means.address,
                identity=identity,
                connect=means.connect,
            )

    async def _means(self, request: SourceRequest, context: SourceContext, *, fresh: bool) -> Means:
        from cachd.sources.azure_identity import Means  # noqa: PLC0415  (heavy)
        from cachd.sources.tokens import Tokens  # noqa: PLC0415

        if self._kept is None:
            self._kept = Tokens()
        address = parse_azure(request.location.uri)
        options = request.location.options
        return Means(
            context=context,
            connect=await connect_of(options, ca_bundle=context.settings.azure.ca_bundle),
            tokens=self._kept,
            address=address,
            base=base_url(options.endpoint or f"https://{address.host}", address),
            fresh=fresh,
        )
