"""AWS Signature Version 4 for GET and HEAD, in the Authorization header.

Source of the rules: AWS General Reference, "Create a signed AWS API request", and the Amazon S3
API Reference, "Authenticating Requests (AWS Signature Version 4)": for S3 the path is signed as it
stands in the request, encoded once and not normalised. The payload of a GET is empty, and its
digest a constant: signing it costs nothing and is accepted by every server, http included.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.model import Auth

_EMPTY = hashlib.sha256(b"").hexdigest()

_UNSIGNED = frozenset(
    {"user-agent", "accept-encoding", "connection", "expect", "transfer-encoding"}
)


class Signer:
    """Signs requests with one set of credentials; the day's key is derived once a day.

    ``clock_offset`` in seconds is what the origin's clock is ahead of ours. Threads may share a
    signer: two that derive the same key at the same time do no harm.
    """

    def __init__(self, auth: Auth) -> None:
        self._access_key = auth.access_key
        self._secret_key = auth.secret_key
        self._session_token = auth.session_token
        self._region = auth.region or "us-east-1"
        self._service = auth.service
        self._day_key: tuple[str, hmac.HMAC] | None = None
        self.clock_offset = 0.0

    def sign(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        *,
        now: float | None = None,
    ) -> list[tuple[str, str]]:
        """The headers to add to ``headers``, which are signed with them, those apart that proxies
        change on the way (Google's front end and Accept-Encoding, say).

        ``url`` is absolute and encoded as it will be sent; ``headers`` must hold ``host``, with
        names in lower case. ``now`` in seconds since the epoch.
        """
        at = time.gmtime((time.time() if now is None else now) + self.clock_offset)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", at)
        day = stamp[:8]
        added = [("x-amz-content-sha256", _EMPTY), ("x-amz-date", stamp)]
        if self._session_token:
            added.append(("x-amz-security-token", self._session_token))
        merged: dict[str, list[str]] = {}
        for name, value in (*headers, *added):
            if name not in _UNSIGNED:
                merged.setdefault(name, []).append(" ".join(value.split()))
        names = sorted(merged)
        signed = ";".join(names)
        parts = urlsplit(url)
        request = "\n".join(
            (
                method,
                parts.path or "/",
                _canonical_query(parts.query),
                *(f"{name}:{','.join(merged[name])}" for name in names),
                "",
                signed,
                _EMPTY,
            )
        )
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        mac = self._key(day).copy()
        mac.update(f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode())
        added.append(
            (
                "authorization",
                (
                    f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, "
                    f"SignedHeaders={signed}, Signature={mac.hexdigest()}"
                ),
            )
        )
        return added

    def _key(self, day: str) -> hmac.HMAC:
        cached = self._day_key
        if cached is not None and cached[0] == day:
            return cached[1]
        key = f"AWS4{self._secret_key}".encode()
        for text in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, text.encode(), "sha256")
        mac = hmac.new(key, None, "sha256")
        self._day_key = (day, mac)
        return mac


def _canonical_query(query: str) -> str:
    """Pairs sorted by name, then value; a name without a value gets an empty one."""
    if not query:
        return ""
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in query.split("&"))
    return "&".join(f"{name}={value}" for name, value in pairs)
