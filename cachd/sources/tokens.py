"""Bearer tokens of OAuth 2.0 servers (RFC 6749): asked for, kept until shortly before they end.

In the resolver process alone. What is sent there is a secret, so that a redirect isn't followed.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    CredentialsInvalid,
    OriginBusy,
    OriginError,
)
from cachd.sources.http_rules import shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from cachd.model import Connect
    from cachd.sources.base import SourceContext
    from cachd.sources.http_client import HttpAnswer

MARGIN = 300.0
"""Seconds before its end at which a token is changed for the next; a fifth of its life, where that
is shorter."""

_KEPT_MOST = 256
_BODY_MOST = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """``expires`` in seconds since the epoch, None where nobody said."""

    value: str = field(repr=False)
    expires: float | None = None
    renew_at: float | None = None


class Tokens:
    """The tokens that were got, by what they were got for; memory only."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._kept: dict[bytes, Token] = {}

    async def get(
        self, proof: object, obtain: Callable[[], Awaitable[Token]], *, fresh: bool = False
    ) -> Token:
        """The token for ``proof`` (JSON), ``obtain``ed if there is none, it ends soon, or
        ``fresh``."""
        text = json.dumps(proof, sort_keys=True).encode()
        name = hashlib.blake2b(text, key=self._key, digest_size=16).digest()
        kept = self._kept.get(name)
        is_good = kept is not None and (kept.renew_at is None or self._clock() < kept.renew_at)
        if kept is not None and is_good and not fresh:
            return kept
        self._kept.pop(name, None)
        token = self._kept[name] = await obtain()
        while len(self._kept) > _KEPT_MOST:
            del self._kept[next(iter(self._kept))]
        return token


async def exchange(
    context: SourceContext, connect: Connect, url: str, form: Mapping[str, str], who: str
) -> Token:
    """POST ``form`` to the token server at ``url``. ``who``: whose token it is, for messages.

    Raises CredentialsInvalid, OriginBusy, OriginError, OriginUnreachable, EgressForbidden.
    """
    from cachd.sources.http_client import HttpClient  # noqa: PLC0415  (heavy)

    async with HttpClient(
        guard=context.egress,
        connect=connect,
        credentials=Credentials(),
        max_redirects=0,
        attempts=None,
    ) as client:
        answer = await client.call(
            "POST",
            url,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            data=urlencode(form).encode(),
            most=_BODY_MOST,
        )
    return read_token(answer, who)


def read_token(answer: HttpAnswer, who: str) -> Token:
    """The token of an answer. Raises what its status means; nothing of a secret is in messages."""
    where, status = shown(answer.url), answer.status
    if status in (429, 503):
        raise OriginBusy(
            f"the token server {where} is busy ({status})", retry_after=answer.retry_after
        )
    if status >= 500:
        raise OriginError(f"the token server {where} answered {status}", status=status)
    if status in (400, 401):
        raise CredentialsInvalid(
            f"the token server {where} refuses {who} ({status}{_code(answer)})",
            hint="is it disabled, deleted or expired, or this node's clock off?",
        )
    if status >= 300:
        raise AccessError(f"the token server {where} gives {who} no token ({status})")
    found = answer.json()
    value = found.get("access_token") if isinstance(found, dict) else None
    if not isinstance(value, str) or not value or not value.isprintable():
        raise OriginError(f"the token server {where} answered without a token")
    return token_of(value, found.get("expires_in"))


def token_of(value: str, seconds: object) -> Token:
    """A token that lives that many ``seconds`` from now."""
    try:
        left = float(str(seconds or 0))
    except ValueError:
        left = 0.0
    if not 0 < left < 1e9:
        return Token(value=value)
    now = time.time()
    return Token(value=value, expires=now + left, renew_at=now + left - min(MARGIN, left / 5))


def _code(answer: HttpAnswer) -> str:
    """The error's code (RFC 6749 section 5.2), if it is one."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return ""
    code = found.get("error") if isinstance(found, dict) else None
    is_code = isinstance(code, str) and code.isascii() and code.replace("_", "").isalnum()
    return f" {code[:60]}" if is_code and isinstance(code, str) else ""
