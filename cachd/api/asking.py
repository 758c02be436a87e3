"""A JSON body as an ``Ask``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from cachd import errors
from cachd.api.body import Fields, clip
from cachd.cache.digest_pins import MODEL_ALGORITHM, DigestPins
from cachd.cache.types import Ask, LeaseRequest, ViewRequest
from cachd.credentials import NAMED, Credentials, SourceOptions
from cachd.errors import InvalidError, UriInvalid
from cachd.model import Digest, parse_digest
from cachd.names import check_pod, check_view_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.cache.types import Priority
    from cachd.store.types import ViewMode

MAX_URI = 8192
MAX_CA_PEM = 512 * 1024
MAX_TOKEN = 64 * 1024
MIN_PATIENCE = 1.0
MAX_PATIENCE = 600.0
MAX_ATTEMPTS = 20
MAX_POD = 128
_DIGEST_LENGTH = 256
_FIELDS = frozenset(
    {"uri", "wait", "timeout", "allow", "ignore", "priority", "credentials", "options", "lease"}
    | {"digests", "model_digest", "view"}
)

# RFC 9110 section 5.6.2 (token) and 5.5 (field values).
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HOST = re.compile(r"[0-9A-Za-z._:\[\]-]{1,255}")

ERRORS_OF_ASKING = (
    errors.UriInvalid,
    errors.SchemeUnknown,
    errors.PatternInvalid,
    errors.AccessError,
    errors.CredentialsMissing,
    errors.CredentialsInvalid,
    errors.CredentialsExpired,
    errors.EgressForbidden,
    errors.NotFound,
    errors.OriginError,
    errors.OriginBusy,
    errors.OriginStalled,
    errors.Offline,
    errors.UpstreamLoop,
    errors.ContentError,
    errors.NoSpace,
    errors.TooLarge,
    errors.DiskFull,
    errors.TooManyLeases,
    errors.Forbidden,
    errors.InUse,
    errors.ViewUnavailable,
    errors.NotReady,
    errors.Draining,
    errors.Overloaded,
    errors.Cancelled,
    errors.DeadlineExceeded,
)
"""What the source, the disk and the rules may answer to an ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAsk:
    ask: Ask
    wait: bool


def parse_ask(data: Mapping[str, Any], request_id: str) -> ParsedAsk:
    """The body of POST /v1/models. Raises InvalidError naming the field."""
    fields = Fields(data)
    uri = _uri(fields, data)
    priority = fields.choice("priority", ("interactive", "prefetch")) or "interactive"
    wait = fields.flag("wait")
    ask = Ask(
        uri=uri,
        allow=fields.texts("allow"),
        ignore=fields.texts("ignore"),
        credentials=_credentials(fields.object("credentials")),
        options=_options(fields.object("options")),
        priority=cast("Priority", priority),
        lease=_lease(fields.object("lease")),
        view=_view(fields.object("view")),
        timeout=fields.number("timeout"),
        pins=_pins(fields),
        request_id=request_id,
    )
    fields.finish()
    return ParsedAsk(ask=ask, wait=True if wait is None else wait)


def parse_lease(fields: Fields) -> LeaseRequest:
    """``holder``, ``ttl`` and ``pod``; the caller finishes ``fields``."""
    pod = fields.text("pod", limit=MAX_POD) or ""
    return LeaseRequest(
        holder=fields.text("holder", limit=256) or "",
        ttl=fields.number("ttl"),
        pod=check_pod(pod, fields.name("pod")) if pod else "",
    )


def _uri(fields: Fields, data: Mapping[str, Any]) -> str:
    try:
        uri = fields.text("uri", limit=MAX_URI)
    except InvalidError as error:
        raise UriInvalid(error.message, field="uri", hint=error.hint) from None
    if uri is None:
        stranger = next((name for name in data if name not in _FIELDS), None)
        also = "" if stranger is None else f"; {clip(stranger)} is no field"
        raise UriInvalid(
            f"uri is missing{also}", field="uri", hint='such as {"uri": "s3://bucket/model"}'
        )
    return uri


def _pins(fields: Fields) -> DigestPins:
    model = fields.text("model_digest", limit=_DIGEST_LENGTH)
    found = DigestPins(model=_digest(fields, "model_digest", model) if model is not None else None)
    if found.model is not None and found.model.algorithm != MODEL_ALGORITHM:
        raise fields.fail("model_digest", f"must be a {MODEL_ALGORITHM}")
    files = fields.object("digests")
    if files is None:
        return found
    pinned = []
    for path in sorted(files.names()):
        text = files.text(path, limit=_DIGEST_LENGTH)
        if text is None:
            raise InvalidError(f"digests pins {clip(path)} to nothing", field="digests")
        pinned.append((path, _digest(fields, "digests", text)))
    return replace(found, files=tuple(pinned))


def _digest(fields: Fields, field: str, text: str) -> Digest:
    try:
        return parse_digest(text)
    except ValueError as error:
        raise fields.fail(
            field, str(error), hint='{"digests": {"model.bin": "sha256:…"}}'
        ) from None


def _lease(fields: Fields | None) -> LeaseRequest | None:
    if fields is None:
        return None
    request = parse_lease(fields)
    fields.finish()
    return request


def _view(fields: Fields | None) -> ViewRequest | None:
    if fields is None:
        return None
    pod = fields.text("pod", limit=MAX_POD)
    if pod is None:
        raise fields.fail("pod", "is missing", "the downward API has it: fieldRef metadata.uid")
    request = ViewRequest(
        pod=check_pod(pod, fields.name("pod")),
        name=check_view_name(fields.text("name") or "", fields.name("name")),
        mode=cast("ViewMode", fields.choice("mode", ("link", "copy")) or "link"),
    )
    fields.finish()
    return request


def _credentials(fields: Fields | None) -> Credentials:
    if fields is None:
        return Credentials()
    access_key = fields.text("access_key_id", limit=1024) or ""
    secret_key = fields.text("secret_access_key", limit=4096) or ""
    session_token = fields.text("session_token", limit=MAX_TOKEN) or ""
    anonymous = fields.flag("anonymous") or False
    token = fields.text("token", limit=MAX_TOKEN) or ""
    named = {name: fields.text(name, limit=MAX_TOKEN, lines=True) or "" for name in NAMED}
    headers = _headers(fields.object("headers"))
    fields.finish()
    if bool(access_key) != bool(secret_key):
        missing = "secret_access_key" if access_key else "access_key_id"
        raise fields.fail(missing, "is missing: the two keys go together")
    if session_token and not access_key:
        raise fields.fail("session_token", "needs access_key_id and secret_access_key")
    if anonymous and (access_key or token or headers or any(named.values())):
        raise fields.fail("anonymous", "contradicts the credentials beside it")
    return Credentials(
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        anonymous=anonymous,
        token=token,
        headers=headers,
        **named,
    )


def _headers(
    hosts: Fields | None,
) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    if hosts is None:
        return ()
    found = []
    for host in hosts.names():
        if not _HOST.fullmatch(host):
            raise InvalidError(
                "a name in credentials.headers is no host",
                field="credentials.headers",
                hint='{"headers": {"models.example.com": {"Authorization": "…"}}}',
            )
        inner = hosts.object(host)
        if inner is None:
            continue
        pairs = []
        for name in inner.names():
            if not _HEADER_NAME.fullmatch(name):
                raise InvalidError(
                    f"a header for {host} has a name that HTTP doesn't allow",
                    field=hosts.name(host),
                )
            pairs.append((name, inner.text(name, limit=MAX_TOKEN) or ""))
        found.append((host, tuple(pairs)))
    return tuple(found)


def _patience(fields: Fields, field: str) -> float | None:
    """Seconds: longer ones would hold a connection that others wait for."""
    seconds = fields.number(field)
    if seconds is not None and not MIN_PATIENCE <= seconds <= MAX_PATIENCE:
        raise fields.fail(
            field, f"must be a number of seconds from {MIN_PATIENCE:g} to {MAX_PATIENCE:g}"
        )
    return seconds


def _options(fields: Fields | None) -> SourceOptions:
    if fields is None:
        return SourceOptions()
    options = SourceOptions(
        endpoint=fields.text("endpoint", limit=2048),
        region=fields.text("region", limit=128),
        addressing=cast("Any", fields.choice("addressing", ("auto", "path", "virtual"))),
        accelerate=fields.flag("accelerate"),
        verify=fields.flag("verify"),
        ca_pem=fields.text("ca_pem", limit=MAX_CA_PEM, lines=True),
        connect_timeout=_patience(fields, "connect_timeout"),
        read_timeout=_patience(fields, "read_timeout"),
        max_attempts=fields.count("max_attempts", least=1, most=MAX_ATTEMPTS),
        registry=fields.text("registry", limit=2048),
        root=fields.text("root", limit=2048),
        user=fields.text("user", limit=256),
        authority=fields.text("authority", limit=2048),
        plain_http=fields.flag("plain_http"),
        registry_verify=fields.flag("registry_verify"),
        registry_ca_pem=fields.text("registry_ca_pem", limit=MAX_CA_PEM, lines=True),
    )
    fields.finish()
    if options.ca_pem is not None and "-----BEGIN CERTIFICATE-----" not in options.ca_pem:
        raise fields.fail("ca_pem", "holds no PEM certificate")
    return options
