"""What Cloud Storage answered, as an error of ours. Status and reason decide, never the text.

Reasons: "HTTP status and error codes for JSON" in Cloud Storage's documentation.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsInvalid,
    CredentialsMissing,
    InvalidError,
    OriginBusy,
    OriginError,
)

if TYPE_CHECKING:
    from cachd.sources.google_identity import Pass
    from cachd.sources.google_location import GoogleAddress
    from cachd.sources.http_client import HttpAnswer

_REASON = re.compile(r"^[A-Za-z0-9_.]{1,80}$", re.ASCII)
_BUSY = {"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "backendError"}
_SEND = (
    "send a service account's key (GOOGLE_APPLICATION_CREDENTIALS in the environment of "
    "`cachd pull`), or give the daemon one in its own"
)


def check(answer: HttpAnswer, endpoint: str, address: GoogleAddress, identity: Pass) -> None:
    """Raises what a status that isn't 2xx means."""
    if answer.status >= 300:
        raise _error(answer, endpoint, address, identity)


def _error(answer: HttpAnswer, endpoint: str, address: GoogleAddress, identity: Pass) -> CachdError:
    status, reason = answer.status, _reason(answer.body)
    said = f"{status} {reason}".strip()
    if status in (429, 503) or (status == 403 and reason in _BUSY):
        return OriginBusy(f"{endpoint} is busy ({said})", retry_after=answer.retry_after)
    if status == 401 and identity.is_signed:
        return CredentialsInvalid(
            f"authentication failed at {endpoint}: it refuses {identity.who} ({said})",
            hint="has the token ended, or is it for another endpoint?",
        )
    if status in (401, 403) and not identity.is_signed:
        return CredentialsMissing(
            f"authentication is needed: {endpoint} refuses anonymous requests for the bucket "
            f"{address.bucket} ({said}), and no credentials were found",
            hint=_SEND,
        )
    if status == 403:
        return AccessError(
            f"access denied to the bucket {address.bucket} at {endpoint} for {identity.who} "
            f"({said})",
            hint="it needs storage.objects.list on the bucket and storage.objects.get on its "
            "objects, as roles/storage.objectViewer has them",
        )
    if status == 400 and reason in ("invalid", "invalidParameter", "required"):
        return InvalidError(
            f"{endpoint} refuses the bucket {address.bucket}, or the path in it ({said})",
            field="uri",
        )
    return OriginError(f"{endpoint} answered {said}", status=status)


def _reason(body: bytes) -> str:
    try:
        reason = json.loads(body)["error"]["errors"][0]["reason"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return ""
    return reason if isinstance(reason, str) and _REASON.match(reason) else ""
