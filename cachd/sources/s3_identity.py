"""Whose keys sign: a caller's, the daemon's own chain, nobody's. In the resolver process alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiobotocore.session import AioSession

from cachd.errors import CredentialsExpired, InvalidError
from cachd.model import Auth
from cachd.sources.s3_location import AWS_ENDPOINT, aws_region, partition_of_origin
from cachd.sources.s3_partition import find_partition

if TYPE_CHECKING:
    from cachd.settings import S3Settings
    from cachd.sources.base import SourceRequest

CHAIN_TTL = 60.0
"""Seconds that what botocore's chain found (or didn't) is kept; temporary credentials refresh
themselves meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Frozen credentials; without an access key nothing is signed. ``whose``: for messages."""

    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    expires: float | None = None
    whose: str = "the request's"

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
            # Where they were found, in botocore's words: env, shared-credentials-file, …
            whose=f"the daemon's own ({found.method})",
        )


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
    """The request's, the endpoint's own, the settings', botocore's chain's, else us-east-1."""
    named = request.location.options.region or aws_region(endpoint) or settings.region
    if named:
        return named
    chain = session or AioSession(profile=settings.profile)
    return str(chain.get_config_variable("region") or "us-east-1")


def check_partition(request: SourceRequest, endpoint: str, region: str) -> None:
    """AWS is asked in the partition that the location names, or not at all.

    A region that only a profile's file or an origin's answer tells can lead into another one, where
    the bucket's name means another bucket. Raises InvalidError.
    """
    if endpoint != AWS_ENDPOINT:
        return
    if find_partition(region) != partition_of_origin(request.location.origin):
        raise InvalidError(
            f"the region {region[:64]!r} is in another partition of AWS than the one named",
            field="options.region",
            hint="name the region in the request, or for the daemon as sources.s3.region",
        )


def require_alive(identity: Pass) -> Pass:
    """``identity``, unless it has ended already. Raises CredentialsExpired."""
    if identity.expires is not None and identity.expires <= time.time():
        raise CredentialsExpired(
            f"{identity.whose} S3 credentials have expired and could not be refreshed",
            hint="check the web identity, profile or metadata service that they come from",
        )
    return identity
