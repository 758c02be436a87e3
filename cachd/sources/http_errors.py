"""What a web server's status means for a file, with the words of KServe's messages. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.errors import (
    AccessError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
)
from cachd.sources.http_rules import shown

if TYPE_CHECKING:
    from cachd.sources.http_client import HttpAnswer


def check_status(answer: HttpAnswer) -> None:
    """Raises what the status means."""
    status, where = answer.status, shown(answer.url)
    if status < 300:
        return
    if status == 401:
        if answer.was_credentialed:
            raise CredentialsInvalid(
                f"authentication failed: {where} answered 401 to the request's headers",
                hint="check the headers (--header, HOST-headers)",
            )
        raise CredentialsMissing(
            f"authentication is needed: {where} answered 401",
            hint="send a header for that host, such as Authorization",
        )
    if status == 403:
        sent = "to the request's headers" if answer.was_credentialed else "and no header was sent"
        raise AccessError(
            f"access denied: {where} answered 403 {sent}", hint="may these headers read that file?"
        )
    if status in {404, 410}:
        raise NotFound(f"{where} was not found ({status})", hint="check the URL")
    if status in {429, 503}:
        raise OriginBusy(f"{where} is busy ({status})", retry_after=answer.retry_after)
    raise OriginError(f"{where} answered {status}", status=status)
