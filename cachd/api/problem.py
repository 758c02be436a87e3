"""Errors as RFC 9457 problem details: one table from a class of error to its HTTP status and title.

Nothing else in cachd knows HTTP statuses of errors.
"""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from cachd import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("cachd.api")

CONTENT_TYPE: Final = "application/problem+json"

STATUS: Final[dict[type[errors.CachdError], tuple[int, str]]] = {
    errors.CachdError: (500, "Internal error"),
    errors.InternalError: (500, "Internal error"),
    errors.InvalidError: (400, "Invalid request"),
    errors.AccessError: (403, "Access refused"),
    errors.CredentialsMissing: (401, "Credentials are missing"),
    errors.CredentialsInvalid: (401, "Credentials are not accepted"),
    errors.CredentialsExpired: (401, "Credentials have expired"),
    errors.Forbidden: (403, "Forbidden"),
    errors.NotFound: (404, "Not found"),
    errors.OriginError: (502, "The origin failed"),
    errors.OriginBusy: (503, "The origin is busy"),
    errors.OriginStalled: (504, "The origin stalled"),
    errors.Offline: (503, "Offline"),
    errors.UpstreamLoop: (508, "A circle of upstreams"),
    errors.ContentError: (422, "The content is not acceptable"),
    errors.NoSpace: (507, "Not enough space"),
    errors.TooLarge: (507, "Larger than the cache"),
    errors.DiskError: (500, "The disk failed"),
    errors.DiskFull: (507, "The disk is full"),
    errors.StoreError: (500, "The store failed"),
    errors.ModelCorrupt: (503, "The cached copy is corrupt"),
    errors.RootUnusable: (503, "The store is not usable"),
    errors.RootLocked: (503, "The store is not usable"),
    errors.LayoutUnsupported: (503, "The store is not usable"),
    errors.VolumeUnexpected: (503, "The store is not usable"),
    errors.InUse: (409, "In use"),
    errors.ViewUnavailable: (409, "No view can be had"),
    errors.TooManyLeases: (429, "Too many leases"),
    errors.NotReady: (503, "Not ready"),
    errors.Draining: (503, "Shutting down"),
    errors.SocketInUse: (409, "The socket is in use"),
    errors.Cancelled: (503, "Cancelled"),
    errors.WorkerDied: (503, "Interrupted"),
    errors.DeadlineExceeded: (504, "Not in time"),
    errors.KubernetesFailed: (503, "The API server failed"),
    errors.DaemonUnreachable: (503, "The daemon can't be reached"),
    errors.DestinationUnusable: (500, "The destination is not usable"),
}

RETRY_AFTER: Final[dict[type[errors.CachdError], float]] = {
    errors.OriginBusy: 10.0,
    errors.NotReady: 5.0,
    errors.Draining: 5.0,
    errors.KubernetesFailed: 5.0,
}
"""Seconds to wait, where nobody said."""

HTTP_CODES: Final[dict[int, str]] = {
    404: "route_unknown",
    405: "method_not_allowed",
    406: "not_acceptable",
    412: "precondition_failed",
    413: "body_too_large",
    415: "media_type_unsupported",
    416: "range_unsatisfiable",
}
"""Codes of what only HTTP can get wrong."""

_HTTP_DETAIL: Final[dict[int, tuple[str, str]]] = {
    404: ("there is no such route", "GET /openapi.json lists them"),
    405: ("this route has no such method", "GET /openapi.json lists them"),
    412: ("the file is another one by now", "read its new ETag with HEAD"),
    413: ("the body is too large", "the limit is 1 MiB"),
    416: ("the range begins after the file's end", "the header Content-Range has the file's size"),
}

_OWN = frozenset(
    {"type", "title", "status", "detail", "code", "field", "hint", "request_id", "retry_after"}
)


def lookup(kind: type[errors.CachdError]) -> tuple[int, str]:
    """Status and title of the nearest class in the table."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def retry_after(error: errors.CachdError) -> float | None:
    """Seconds, from the error or by its class."""
    if error.retry_after is not None:
        return error.retry_after
    return next((RETRY_AFTER[base] for base in type(error).__mro__ if base in RETRY_AFTER), None)


def to_problem(error: errors.CachdError, request_id: str) -> dict[str, Any]:
    """The problem object; the error's facts stand beside the standard members."""
    status, title = lookup(type(error))
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": error.message,
        "code": error.code,
    }
    if error.field:
        body["field"] = error.field
    body["hint"] = error.hint
    body["request_id"] = request_id
    wait = retry_after(error)
    if wait is not None:
        body["retry_after"] = wait
    body.update((k, v) for k, v in error.detail.items() if k not in _OWN)
    return body


def internal(request_id: str) -> errors.InternalError:
    """What a caller is told of a defect: nothing of its inside."""
    return errors.InternalError(
        "an internal error; the daemon's log has it under this request id",
        hint=f"look for {request_id} in the daemon's log",
    )


def told(error: errors.CachdError, request_id: str) -> errors.CachdError:
    """``error`` as a caller is told of it; what a defect says goes to the log alone."""
    if error.code != "internal":
        return error
    log.error("internal error", exc_info=error)
    return internal(request_id)


def respond(error: errors.CachdError, request_id: str) -> web.Response:
    """The error as a response."""
    body = to_problem(error, request_id)
    headers: dict[str, str] = {}
    if "retry_after" in body:
        headers["Retry-After"] = str(max(1, math.ceil(body["retry_after"])))
    if body["status"] == 401:
        # RFC 9110 section 15.5.2 wants a challenge; the credentials belong into the body.
        headers["WWW-Authenticate"] = 'Cachd realm="the origin of the model"'
    return _response(body, headers)


def respond_http(error: web.HTTPException, request_id: str) -> web.Response:
    """An error of HTTP's own, by the framework or by us, as a problem."""
    code = HTTP_CODES.get(error.status, "request_invalid" if error.status < 500 else "internal")
    detail, hint = _HTTP_DETAIL.get(error.status, (error.reason, ""))
    body = {
        "type": "about:blank",
        "title": error.reason,
        "status": error.status,
        "detail": detail,
        "code": code,
        "hint": hint,
        "request_id": request_id,
    }
    kept = ("Allow", "Content-Range", "WWW-Authenticate")
    headers = {name: error.headers[name] for name in kept if name in error.headers}
    return _response(body, headers)


def _response(body: Mapping[str, Any], headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        status=body["status"],
        body=json.dumps(body, default=str).encode() + b"\n",
        content_type=CONTENT_TYPE,
        headers=headers,
    )
