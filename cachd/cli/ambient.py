"""The identity that a pod has in its cloud, turned into credentials that end soon.

Which one it is follows from the environment alone, as in each cloud's SDK; credentials that are
spelled out win (``forward``). The daemon never sees a pod's tokens, only what they were changed
for, and gets the next ones before these end (``asking``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from cachd.cli import ambient_aws, ambient_azure, ambient_google
from cachd.cli.forward_azure import host_of as azure_host
from cachd.cli.forward_azure import is_signed
from cachd.cli.forward_google import HOST, host_of
from cachd.cli.forward_values import parts_of
from cachd.schemes import REGISTRIES, scheme_of, source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachd.cli.identity import Identity

MARGIN = 300.0
"""Seconds before their end at which credentials are changed for the next; a fifth of their life,
where that is shorter."""


def choose(
    environ: Mapping[str, str],
    uri: str,
    credentials: Mapping[str, Any],
    *,
    endpoint: str | None = None,
    ca_file: str | None = None,
) -> Identity | None:
    """The identity to use for ``uri``; None where ``credentials`` were spelled out, or the pod has
    none that the URI's store takes. ``endpoint``: where that store is, if not where its URI says.
    """
    if credentials.get("anonymous") or credentials.get("access_key_id"):
        return None
    scheme = scheme_of(uri)
    if scheme == "s3":
        return ambient_aws.choose(environ, ca_file)
    if scheme in REGISTRIES:
        # One identity goes along, and whose store it will be isn't known: that of this machine.
        return ambient_aws.choose(environ, ca_file) or _google(environ, credentials, None)
    parts = parts_of(uri)
    if scheme == "gs":
        return _google(environ, credentials, endpoint)
    if source_of(uri) == "azure":
        return _azure(environ, uri, credentials, endpoint)
    host = (parts.hostname or "").lower()
    if host in (credentials.get("headers") or {}):
        return None
    if scheme == "https" and host == HOST:
        signed = {"X-Goog-Signature", "Signature"} & parse_qs(parts.query).keys()
        return None if signed else ambient_google.choose(environ)
    return None


def _google(
    environ: Mapping[str, str], credentials: Mapping[str, Any], endpoint: str | None
) -> Identity | None:
    host = host_of(endpoint)
    if not host or credentials.get("google_key") or host in (credentials.get("headers") or {}):
        return None
    return ambient_google.choose(environ, host=host)


def _azure(
    environ: Mapping[str, str], uri: str, credentials: Mapping[str, Any], endpoint: str | None
) -> Identity | None:
    host = azure_host(uri, endpoint)
    if not host or is_signed(uri) or host in (credentials.get("headers") or {}):
        return None
    if credentials.get("azure_account_key") or credentials.get("azure_sas"):
        return None
    return ambient_azure.choose(environ, host)


class Passes:
    """The body of an ask, with credentials that are good now."""

    def __init__(
        self,
        body: dict[str, Any],
        identity: Identity | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._body = body
        self._identity = identity
        self._clock = clock
        self._due: float | None = None
        self._has_any = False

    def get(self, field: str) -> Any:
        """A field of the body, None if it isn't there."""
        return self._body.get(field)

    def set(self, **fields: object) -> None:
        """Set fields of the body; None takes one out."""
        merged = {**self._body, **fields}
        self._body = {name: value for name, value in merged.items() if value is not None}

    @property
    def is_due(self) -> bool:
        """Whether the credentials end soon."""
        return self._due is not None and self._clock() >= self._due

    def postpone(self, seconds: float) -> None:
        """Getting new ones failed: try again later, the old ones may last till then."""
        self._due = self._clock() + seconds

    def body(self) -> dict[str, Any]:
        """The body; with new credentials where it has none yet or they end soon. Raises what the
        identity's service says."""
        if self._identity is None:
            return self._body
        if not self._has_any or self.is_due:
            found = self._identity.obtain()
            given = self._body.get("credentials", {})
            merged = {**given, **found.credentials}
            if "headers" in merged:
                merged["headers"] = {**given.get("headers", {}), **merged["headers"]}
            self._body = {**self._body, "credentials": merged}
            self._has_any = True
            now = self._clock()
            if found.expires is None:
                self._due = None
            else:
                left = found.expires - now
                self._due = found.expires - min(MARGIN, left / 5)
        return self._body
