"""S3 clients and credentials, by aiobotocore. Runs in the resolver process alone."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED

from cachd.errors import CredentialsExpired, InvalidError
from cachd.model import Auth
from cachd.sources.s3_errors import region_of, to_error
from cachd.sources.s3_http import session_class
from cachd.sources.s3_location import AWS_ENDPOINT, aws_region, is_virtual, parse_s3
from cachd.sources.trust import CONNECT_TIMEOUT, READ_TIMEOUT, connect_of, tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cachd.model import Connect
    from cachd.settings import S3Settings
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.s3_location import S3Address

MAX_ATTEMPTS = 3
"""Tries of one call; KServe's default (``S3_MAX_ATTEMPTS``)."""

CHAIN_TTL = 60.0
"""Seconds that what botocore's chain found (or didn't) is kept; temporary credentials refresh
themselves meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Frozen credentials; without an access key nothing is signed."""

    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    expires: float | None = None

    @property
    def signs(self) -> bool:
        return bool(self.access_key)

    def __repr__(self) -> str:
        return f"Pass(signs={self.signs})"

    def auth(self, region: str) -> Auth:
        if not self.signs:
            return Auth()
        return Auth(
            kind="sigv4",
            access_key=self.access_key,
            secret_key=self.secret_key,
            session_token=self.session_token,
            region=region,
            service="s3",
            expires=self.expires,
        )


class DaemonChain:
    """The daemon's own identity: botocore's chain (environment, profile, web identity, container,
    instance …), looked at again every ``CHAIN_TTL`` seconds, or at once when asked."""

    def __init__(self) -> None:
        self._sessions: dict[str | None, tuple[float, AioSession]] = {}

    async def get(self, profile: str | None, *, fresh: bool = False) -> tuple[AioSession, Pass]:
        loaded = self._sessions.get(profile)
        if loaded is None or fresh or time.monotonic() - loaded[0] > CHAIN_TTL:
            loaded = (time.monotonic(), AioSession(profile=profile))
            self._sessions[profile] = loaded
        session = loaded[1]
        found: Any = await session.get_credentials()
        if found is None:
            return session, Pass()
        frozen = await found.get_frozen_credentials()
        # botocore has no public way to ask when credentials end.
        expiry = getattr(found, "_expiry_time", None)
        return session, Pass(
            access_key=frozen.access_key,
            secret_key=frozen.secret_key,
            session_token=frozen.token or "",
            expires=expiry.timestamp() if expiry is not None else None,
        )


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
    signed_for: _Region

    def error(self, error: BaseException) -> Exception:
        return to_error(
            error,
            address=self.address,
            endpoint=self.endpoint,
            signed=self.identity.signs,
        )


def endpoint_of(request: SourceRequest) -> str:
    return request.location.origin.removeprefix("s3+")


def failed(error: BaseException, request: SourceRequest) -> Exception:
    """An error from before there was a client."""
    address, _ = parse_s3(request.location.uri)
    return to_error(error, address=address, endpoint=endpoint_of(request), signed=True)


async def pass_of(
    request: SourceRequest, settings: S3Settings, chain: DaemonChain, *, fresh: bool = False
) -> tuple[AioSession | None, Pass]:
    """Whose keys sign. An empty pass means unsigned requests."""
    given = request.credentials
    if request.identity == "daemon":
        if settings.anonymous:
            return None, Pass()
        return await chain.get(settings.profile, fresh=fresh)
    if request.identity == "anonymous" or given.anonymous or not given.access_key:
        return None, Pass()
    if not given.secret_key:
        raise InvalidError(
            "the credentials have an access key without a secret key",
            field="credentials.secret_access_key",
        )
    return None, Pass(
        access_key=given.access_key,
        secret_key=given.secret_key,
        session_token=given.session_token,
    )


async def region_for(
    request: SourceRequest, endpoint: str, settings: S3Settings, session: AioSession | None
) -> str:
    named = request.location.options.region or aws_region(endpoint) or settings.region
    if named:
        return named
    chain = session or AioSession(profile=settings.profile)
    return str(chain.get_config_variable("region") or "us-east-1")


@contextlib.asynccontextmanager
async def open_client(
    request: SourceRequest,
    context: SourceContext,
    chain: DaemonChain,
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
    is_aws = aws_region(endpoint) is not None
    accelerate = bool(options.accelerate)
    if accelerate and not is_aws:
        raise InvalidError(
            "transfer acceleration is there at AWS alone", field="options.accelerate"
        )
    connect = await connect_of(
        options,
        verify=settings.verify,
        ca_bundle=settings.ca_bundle or context.environ.get("AWS_CA_BUNDLE"),
    )
    try:
        session, identity = await pass_of(request, settings, chain)
        if region is None:
            region = await region_for(request, endpoint, settings, session)
    except Exception as error:
        raise failed(error, request) from error
    addressing = options.addressing or settings.addressing
    virtual = is_virtual(addressing, endpoint, address.bucket)
    config = AioConfig(
        region_name=region,
        signature_version="s3v4" if identity.signs else UNSIGNED,
        connect_timeout=options.connect_timeout or CONNECT_TIMEOUT,
        read_timeout=options.read_timeout or READ_TIMEOUT,
        retries={"mode": "standard", "max_attempts": options.max_attempts or MAX_ATTEMPTS},
        s3={
            "addressing_style": "virtual" if virtual else "path",
            "use_accelerate_endpoint": accelerate,
        },
        ignore_configured_endpoint_urls=True,
        parameter_validation=False,
        http_session_cls=session_class(context.egress, await tls_context(connect)),
    )
    keys = {}
    if identity.signs:
        keys = {
            "aws_access_key_id": identity.access_key,
            "aws_secret_access_key": identity.secret_key,
            "aws_session_token": identity.session_token or None,
        }
    async with contextlib.AsyncExitStack() as stack:
        try:
            api = await stack.enter_async_context(
                _service_session().create_client(
                    "s3",
                    region_name=region,
                    endpoint_url=None if endpoint == AWS_ENDPOINT else endpoint,
                    config=config,
                    **keys,
                )
            )
        except Exception as error:
            raise failed(error, request) from error
        signed_for = _Region(region)
        api.meta.events.register("before-sign.s3", signed_for.note)
        yield S3Client(
            api=api,
            address=address,
            endpoint=endpoint,
            base=_base(str(api.meta.endpoint_url), endpoint, accelerate=accelerate),
            identity=identity,
            connect=connect,
            region=region,
            virtual=virtual or accelerate,
            signed_for=signed_for,
        )


class _Region:
    """The region that the last request was signed for: botocore follows a bucket by itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def note(self, *, region_name: str | None = None, **_: Any) -> None:
        self.name = region_name or self.name


def _base(resolved: str, endpoint: str, *, accelerate: bool) -> str:
    """Where objects are read: AWS's regional endpoint, as botocore found it, or the given one."""
    if accelerate:
        return "https://s3-accelerate.amazonaws.com"
    return resolved if endpoint == AWS_ENDPOINT else endpoint


_SERVICE: list[AioSession] = []


def _service_session() -> AioSession:
    """One session for all clients: it holds the parsed service model, and no credentials."""
    if not _SERVICE:
        _SERVICE.append(AioSession())
    return _SERVICE[0]


def moved_region(error: BaseException, used: str) -> str | None:
    """Another region to try, where ``error`` names one."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    region = region_of(error) if isinstance(error, ClientError) else None
    return region if region and region != used else None


def require_alive(identity: Pass) -> Pass:
    """``identity``, unless it has ended already. Raises CredentialsExpired."""
    if identity.expires is not None and identity.expires <= time.time():
        raise CredentialsExpired(
            "the daemon's own S3 credentials have expired and could not be refreshed",
            hint="check the web identity, profile or metadata service that they come from",
        )
    return identity
