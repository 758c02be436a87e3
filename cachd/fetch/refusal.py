"""What an answer that is no content means: status and S3 error code to an error of ours. Pure.

Source of the codes: Amazon S3 API Reference, "Error responses".
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsExpired,
    CredentialsInvalid,
    OriginBusy,
    OriginChanged,
    OriginError,
    OriginMoved,
)
from cachd.sources.rate_limit import seconds_to_wait

if TYPE_CHECKING:
    from collections.abc import Mapping

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9_.-]{1,80})\s*</Code>")
_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")

_EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"}
_INVALID = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidSecurity",
    "AuthorizationQueryParametersError",
    "UnrecognizedClientException",
}
_RETRY_AFTER_MOST = 86400.0
"""Seconds. Of digits without end there is no number."""

_BUSY = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException"}
_MOVED = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "Redirect",
}
_GONE = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "PreconditionFailed", "InvalidRange"}
_FAILED = {"InternalError", "RequestTimeout", "IncompleteBody"}


def parse_refusal(
    status: int, headers: Mapping[str, str], body: bytes, path: str, *, now: float | None = None
) -> CachdError:
    """The error for an answer to a GET of ``path``; the code in the body decides, then the status.

    ``body`` is the beginning of the answer's body. ``now`` in seconds since the epoch, for
    ``clock_offset`` in the detail of a clock that is too far off.
    """
    now = time.time() if now is None else now
    match = _CODE.search(body)
    code = match.group(1).decode() if match else ""
    said = f"{status} {code}".strip()
    facts: dict[str, Any] = {"status": status, **({"origin_code": code} if code else {})}
    retry_after = parse_retry_after(headers.get("retry-after"), now)
    if retry_after is None:
        retry_after = seconds_to_wait(headers)
    if code == "RequestTimeTooSkewed":
        return OriginError(
            f"the origin refuses {path}: this machine's clock is off",
            hint="set the clock of this node",
            clock_offset=_clock_offset(headers.get("date"), now),
            **facts,
        )
    if code in _EXPIRED:
        return CredentialsExpired(f"the credentials expired while {path} was fetched", **facts)
    if code in _INVALID or status == 401:
        return CredentialsInvalid(
            f"the origin refuses the credentials for {path} ({said})",
            hint="check the access key, the secret and the region",
            **facts,
        )
    if code in _MOVED:
        region = _REGION.search(body)
        named = region.group(1).decode() if region else headers.get("x-amz-bucket-region")
        if named:
            facts["region"] = named
        return OriginMoved(f"the origin of {path} is elsewhere ({said})", **facts)
    if code in _GONE or (not code and status in (404, 410, 412, 416)):
        return OriginChanged(
            f"{path} changed at its source while it was fetched ({said})",
            hint="ask again: the new state will be fetched",
            **facts,
        )
    if code in _BUSY or status in (429, 503):
        return OriginBusy(f"the origin is busy ({said})", retry_after=retry_after, **facts)
    if code == "AccessDenied" or status == 403:
        return AccessError(
            f"the origin denies access to {path} ({said})",
            hint="these credentials may list the model but not read it",
            **facts,
        )
    if status in (404, 410, 412, 416):
        return OriginChanged(f"{path} is no longer what was planned ({said})", **facts)
    if not (status >= 500 or status == 408 or code in _FAILED):
        # A 4xx that says nothing of the above will say the same again.
        facts["final"] = True
    return OriginError(f"the origin answers {said} to {path}", retry_after=retry_after, **facts)


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds, from a number or a date (RFC 9110 section 10.2.3); None if it says neither."""
    if not text:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _RETRY_AFTER_MOST)
    at = _parse_date(text)
    return None if at is None else min(max(0.0, at - now), _RETRY_AFTER_MOST)


def _clock_offset(date: str | None, now: float) -> float:
    at = _parse_date(date) if date else None
    return 0.0 if at is None else at - now


def _parse_date(text: str) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  (large, seldom needed)

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError):
        return None
