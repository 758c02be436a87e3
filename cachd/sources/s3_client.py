"""S3 clients, by aiobotocore. In the resolver process alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from cachd.errors import InvalidError
from cachd.sources.s3_errors import region_of, to_error
from cachd.sources.s3_http import session_class
from cachd.sources.s3_identity import Pass, check_partition, pass_of, region_for
from cachd.sources.s3_location import (
    AWS_ENDPOINT,
    aws_region,
    endpoint_of_origin,
    is_virtual,
    parse_s3,
)
from cachd.sources.trust import CONNECT_TIMEOUT, READ_TIMEOUT, connect_of, tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cachd.model import Connect
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.egress import EgressGuard
    from cachd.sources.s3_identity import DaemonChain
    from cachd.sources.s3_location import S3Address

MAX_ATTEMPTS = 3
"""Tries of one call; KServe's default (``S3_MAX_ATTEMPTS``)."""

POOL_LIMIT = 16
POOL_IDLE = 60.0
"""Seconds that an unused client is kept; making one takes botocore some 40 ms."""


@dataclass(slots=True)
class S3Client:
    """A client for one call of ours, and what the call needs to know about it."""

    api: Any
    address: S3Address
    endpoint: str
    base: str
    identity: Pass
    connect: Connect
    region: str
    virtual: bool

    def error(self, error: BaseException) -> Exception:
        return to_error(
            error,
            address=self.address,
            endpoint=self.endpoint,
            whose=self.identity.whose if self.identity.signs else "",
        )


def endpoint_of(request: SourceRequest) -> str:
    return request.location.mirror or endpoint_of_origin(request.location.origin)


def failed(error: BaseException, request: SourceRequest) -> Exception:
    """An error from before there was a client."""
    address, _ = parse_s3(request.location.uri)
    whose = "the daemon's own" if request.identity == "daemon" else "the request's"
    return to_error(error, address=address, endpoint=endpoint_of(request), whose=whose)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """All that makes two clients different."""

    endpoint: str
    region: str
    identity: Pass
    connect: Connect
    attempts: int
    virtual: bool
    accelerate: bool


@dataclass(slots=True)
class _Pooled:
    api: Any
    stack: contextlib.AsyncExitStack
    users: int = 0
    used: float = 0.0


class ClientPool:
    """Clients that were used lately, for one egress guard."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard
        self._clients: dict[ClientKey, _Pooled] = {}
        self._making = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def borrow(self, key: ClientKey) -> AsyncIterator[Any]:
        """An aiobotocore client; several may use it at once."""
        async with self._making:
            await self._close(self._surplus(time.monotonic()))
            pooled = self._clients.get(key)
            if pooled is None:
                pooled = self._clients[key] = await self._make(key)
            pooled.users += 1
        try:
            yield pooled.api
        finally:
            pooled.users -= 1
            pooled.used = time.monotonic()

    async def aclose(self) -> None:
        """Close every client; nobody may be using one."""
        await self._close(list(self._clients))

    def _surplus(self, now: float) -> list[ClientKey]:
        idle = sorted(
            (key for key, pooled in self._clients.items() if not pooled.users),
            key=lambda key: self._clients[key].used,
        )
        above = max(0, len(self._clients) - POOL_LIMIT + 1)
        return [
            key
            for place, key in enumerate(idle)
            if place < above or now - self._clients[key].used > POOL_IDLE
        ]

    async def _close(self, keys: list[ClientKey]) -> None:
        for key in keys:
            await self._clients.pop(key).stack.aclose()

    async def _make(self, key: ClientKey) -> _Pooled:
        context = await tls_context(key.connect)
        signs = key.identity.signs
        config = AioConfig(
            region_name=key.region,
            signature_version="s3v4" if signs else UNSIGNED,
            connect_timeout=key.connect.connect_timeout or CONNECT_TIMEOUT,
            read_timeout=key.connect.read_timeout or READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": key.attempts},
            s3={
                "addressing_style": "virtual" if key.virtual else "path",
                "use_accelerate_endpoint": key.accelerate,
            },
            ignore_configured_endpoint_urls=True,
            parameter_validation=False,
            http_session_cls=session_class(self._guard, context),
        )
        stack = contextlib.AsyncExitStack()
        api = await stack.enter_async_context(
            _service_session().create_client(
                "s3",
                region_name=key.region,
                endpoint_url=None if key.endpoint == AWS_ENDPOINT else key.endpoint,
                config=config,
                aws_access_key_id=key.identity.access_key or None,
                aws_secret_access_key=key.identity.secret_key or None,
                aws_session_token=key.identity.session_token or None,
            )
        )
        api.meta.events.register("before-call.s3", _stay_in_region)
        return _Pooled(api, stack)


@contextlib.asynccontextmanager
async def open_client(
    request: SourceRequest,
    context: SourceContext,
    chain: DaemonChain,
    pool: ClientPool,
    *,
    region: str | None = None,
) -> AsyncIterator[S3Client]:
    """A client with the caller's pass. Raises what ``s3_errors`` maps, EgressForbidden,
    ConfigInvalid and InvalidError."""
    settings = context.settings.s3
    options = request.location.options
    endpoint = endpoint_of(request)
    address, _ = parse_s3(request.location.uri)
    context.egress.check_url(endpoint)
    accelerate = bool(options.accelerate)
    if accelerate and aws_region(endpoint) is None:
        raise InvalidError(
            "transfer acceleration is there at AWS alone", field="options.accelerate"
        )
    connect = await connect_of(
        options,
        verify=settings.verify,
        ca_bundle=settings.ca_bundle or context.environ.get("AWS_CA_BUNDLE"),
    )
    virtual = is_virtual(options.addressing or settings.addressing, endpoint, address.bucket)
    async with contextlib.AsyncExitStack() as stack:
        try:
            session, identity = await pass_of(request, settings, chain)
            region = region or await region_for(request, endpoint, settings, session)
            check_partition(request, endpoint, region)
            key = ClientKey(
                endpoint=endpoint,
                region=region,
                identity=identity,
                connect=connect,
                attempts=options.max_attempts or MAX_ATTEMPTS,
                virtual=virtual,
                accelerate=accelerate,
            )
            api = await stack.enter_async_context(pool.borrow(key))
        except Exception as error:
            raise failed(error, request) from error
        yield S3Client(
            api=api,
            address=address,
            endpoint=endpoint,
            base=_base(str(api.meta.endpoint_url), endpoint, accelerate=accelerate),
            identity=identity,
            connect=connect,
            region=key.region,
            virtual=virtual or accelerate,
        )


def _stay_in_region(context: dict[str, Any], **_: Any) -> None:
    """Keep botocore from following a bucket into another region by itself: it asks again and again
    where an endpoint only redirects, and doesn't tell where it ended. ``S3Source`` follows once."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _base(resolved: str, endpoint: str, *, accelerate: bool) -> str:
    """Where objects are read: AWS's regional endpoint, as botocore found it, or the given one."""
    if accelerate:
        return "https://s3-accelerate.amazonaws.com"
    return resolved if endpoint == AWS_ENDPOINT else endpoint


_SERVICE: list[AioSession] = []


def _service_session() -> AioSession:
    """One session for all clients: it holds the parsed service model, and no credentials."""
    if not _SERVICE:
        session = AioSession()
        # Nothing here reads a time from an answer; parsing them is half the cost of a long listing.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        _SERVICE.append(session)
    return _SERVICE[0]


def moved_region(error: BaseException, used: str) -> str | None:
    """Another region to try, where ``error`` names one."""
    region = region_of(error) if isinstance(error, ClientError) else None
    return region if region and region != used else None
