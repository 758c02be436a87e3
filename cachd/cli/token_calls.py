"""Calls to the services that give a pod its short-lived credentials. The standard library only.

None follows a redirect, for what is sent is a secret; the services of a node are asked past any
proxy. Messages name the service and its own error code, never what was sent or received.
"""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsInvalid,
    InvalidError,
    OriginTls,
    OriginUnreachable,
)

if TYPE_CHECKING:
    import urllib.request
    from collections.abc import Mapping

TIMEOUT = 10.0
"""Seconds for one call."""

ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; doubled each time."""

_MAX_ANSWER = 1024 * 1024
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


def call(
    url: str,
    service: str,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str | None = None,
    is_local: bool = False,
    transient: tuple[str, ...] = (),
    attempts: int = ATTEMPTS,
) -> bytes:
    """The body of a successful answer; a POST where there is a ``form``.

    ``transient`` are error codes of the service's own that are worth another try. Raises
    CredentialsInvalid, AccessError, OriginUnreachable, OriginTls, InvalidError.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidError(
            f"{service} has no http(s) address",
            hint="write https://… in AWS_ENDPOINT_URL_STS or AWS_ENDPOINT_URL",
        )
    import urllib.error  # noqa: PLC0415  (slow to load, and most pulls call no such service)
    import urllib.request  # noqa: PLC0415

    opener = _opener(_context(ca_file), is_local=is_local)
    data = urlencode(form).encode() if form is not None else None
    request = urllib.request.Request(url, data, dict(headers or {}))  # noqa: S310  (http or https)
    pause = FIRST_PAUSE
    failure: CachdError
    for attempt in range(attempts):
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                return bytes(answer.read(_MAX_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                code = _error_code(error.read(_MAX_ANSWER))
                failure = _refused(service, error.code, code)
                passes = error.code in _BUSY or code in transient
        except (OSError, ValueError) as error:
            failure = _unreachable(service, url, error)
            passes = not isinstance(failure, OriginTls)
        if not passes or attempt == attempts - 1:
            raise failure
        time.sleep(pause)
        pause *= 2
    raise AssertionError("no attempt")


def _opener(trust: ssl.SSLContext, *, is_local: bool) -> urllib.request.OpenerDirector:
    import urllib.request  # noqa: PLC0415

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments: object) -> None:
            return None

    handlers: list[urllib.request.BaseHandler] = [NoRedirect()]
    if is_local:
        handlers.append(urllib.request.ProxyHandler({}))
    handlers.append(urllib.request.HTTPSHandler(context=trust))
    return urllib.request.build_opener(*handlers)


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        if ca_file:
            context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidError(
            f"the authorities in {ca_file} can't be read", hint="mount a PEM file there"
        ) from error
    return context


def _refused(service: str, status: int, code: str) -> CredentialsInvalid | AccessError:
    said = f"{status} {code}".strip()
    if status in (400, 401):
        return CredentialsInvalid(
            f"{service} doesn't take this pod's identity ({said})",
            hint="check the service account's annotation, and that the role or application trusts "
            "this namespace and service account; see docs/initializer.md",
        )
    return AccessError(
        f"{service} gave this pod no credentials ({said})",
        hint="check what the role or application allows this service account; see "
        "docs/initializer.md",
    )


def _unreachable(service: str, url: str, error: Exception) -> OriginUnreachable | OriginTls:
    reason = getattr(error, "reason", error)
    host = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(reason, ssl.SSLError):
        return OriginTls(
            f"{service} at {host} has no certificate that is trusted here",
            hint="name its authority with AWS_CA_BUNDLE or SSL_CERT_FILE",
        )
    what = getattr(reason, "strerror", None) or type(reason).__name__
    return OriginUnreachable(
        f"{service} at {host} can't be reached: {what}",
        hint="check egress rules and proxies of this pod; it needs this service for its "
        "short-lived credentials",
    )


def _error_code(body: bytes) -> str:
    """The service's name for what is wrong, of STS's XML or of JSON; empty if there is none."""
    text = body.decode(errors="replace")
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except ValueError:
            return ""
        code = value.get("error") or value.get("code") or value.get("Code") or ""
    else:
        code = text.partition("<Code>")[2].partition("</Code>")[0]
    word = str(code)[:60]
    return word if word.replace("_", "").replace("-", "").replace(".", "").isalnum() else ""


def parse_object(body: bytes, service: str) -> dict[str, Any]:
    """A JSON object. Raises AccessError."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise AccessError(f"{service} answered with no JSON object")
    return value


def read_token(path: str, variable: str) -> str:
    """A token from a file, read anew each time: kubelet replaces it. Raises InvalidError."""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InvalidError(
            f"the token file {path} can't be read: {reason}",
            field=variable,
            hint=f"mount it, readable for this container's user (fsGroup), or unset {variable}",
        ) from error
    if not token or any(char in token for char in "\r\n"):
        raise InvalidError(f"the token file {path} holds no token", field=variable)
    return token
