"""One tree of errors. Each class has a stable ``code``; a message says what happened and to what,
a hint says what to do next. No HTTP status and no exit code lives here (see ``api.problem`` and
``cli.exits``). Messages and details never hold a secret: callers of these constructors pass names,
addresses and sizes, never credentials, signed URLs or request headers.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CachdError(Exception):
    """Base of everything that cachd raises on purpose.

    ``retry_after`` is in seconds, where somebody said how long to wait. ``detail`` holds
    JSON-serialisable facts for programs (sizes in bytes).
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    next_step: ClassVar[str] = ""
    """The hint, where the place that raises has no better one."""

    _by_code: ClassVar[dict[str, type[CachdError]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        CachdError._by_code[cls.code] = cls

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        field: str | None = None,
        retry_after: float | None = None,
        **detail: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.next_step
        self.field = field
        self.retry_after = retry_after
        self.detail = detail

    def to_wire(self) -> dict[str, Any]:
        """The error as JSON-serialisable data, to cross a process boundary."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "field": self.field,
            "retry_after": self.retry_after,
            "detail": self.detail,
        }

    @staticmethod
    def from_wire(data: dict[str, Any]) -> CachdError:
        """The error that ``to_wire`` described; an unknown code gives ``InternalError``."""
        cls = CachdError._by_code.get(str(data.get("code")), InternalError)
        error = cls(
            str(data.get("message", "")),
            hint=str(data.get("hint") or ""),
            field=data.get("field"),
            retry_after=data.get("retry_after"),
        )
        error.detail = dict(data.get("detail") or {})
        return error


class InternalError(CachdError):
    """A defect of ours; the log has the traceback under the same request id."""

    code = "internal"


CachdError._by_code["internal"] = InternalError


# --- what the caller asked -------------------------------------------------------------------


class InvalidError(CachdError):
    code = "request_invalid"
    next_step = "see docs/api.md and /openapi.json"


class ConfigInvalid(InvalidError):
    code = "config_invalid"
    next_step = "see docs/settings.md; `cachd check-config` tells when all is right"


class UriInvalid(InvalidError):
    code = "uri_invalid"
    next_step = "a URI looks like s3://bucket/model or https://host/model.tgz; see docs/sources.md"


class SchemeUnknown(UriInvalid):
    code = "scheme_unknown"


class PatternInvalid(InvalidError):
    code = "pattern_invalid"


# --- who may ----------------------------------------------------------------------------------


class AccessError(CachdError):
    """The origin, or a rule of ours, refuses this caller."""

    code = "access_denied"
    next_step = "check that the request's credentials may list and read all files of the model"


class CredentialsMissing(AccessError):
    code = "credentials_missing"


class CredentialsInvalid(AccessError):
    code = "credentials_invalid"
    next_step = "check the keys or the token that were sent, and that they belong to this endpoint"


class CredentialsExpired(AccessError):
    """Worth one refresh of the credentials, then final."""

    code = "credentials_expired"
    next_step = "send fresh credentials"


class Forbidden(AccessError):
    """cachd's own rules refuse, whatever the origin would say."""

    code = "forbidden"


class EgressForbidden(Forbidden):
    """The URI, a redirect or a DNS answer leads to an address that cachd may not call."""

    code = "egress_forbidden"


# --- what is not there ------------------------------------------------------------------------


class NotFound(CachdError):
    """The source has nothing at the URI."""

    code = "not_found"
    next_step = "check the URI and the endpoint"


class ModelUnknown(NotFound):
    """The cache has no model with that key."""

    code = "model_unknown"


class FileUnknown(NotFound):
    code = "file_unknown"


class LeaseUnknown(NotFound):
    code = "lease_unknown"


# --- the origin -------------------------------------------------------------------------------


class OriginError(CachdError):
    """The origin answered something that is no model: 5xx, a broken protocol, lies."""

    code = "origin_failed"
    next_step = "ask again later; what was fetched is kept"
    retryable = True


class OriginUnreachable(OriginError):
    """No connection: name, route, refusal, reset."""

    code = "origin_unreachable"


class OriginTls(OriginError):
    code = "origin_tls"
    next_step = "give the authority (ca_pem, --ca-bundle), or check the endpoint's certificate"
    retryable = False


class OriginBusy(OriginError):
    """429 or 503; ``retry_after`` where the origin said so."""

    code = "origin_busy"


class OriginStalled(OriginError):
    """Fewer bytes than the floor over its window."""

    code = "origin_stalled"


class OriginMoved(OriginError):
    code = "origin_moved"
    retryable = False


class OriginChanged(OriginError):
    """The model changed at its source while it was being fetched; plan again."""

    code = "origin_changed"
    retryable = False


class RangeIgnored(OriginError):
    """200 to a range: fetch the file as one stream."""

    code = "range_ignored"
    retryable = False


class Offline(CachdError):
    code = "offline"


class UpstreamLoop(CachdError):
    """An ask to fetch has come round to a daemon that waits for it, or through too many."""

    code = "upstream_loop"


# --- the content ------------------------------------------------------------------------------


class ContentError(CachdError):
    code = "content_invalid"
    next_step = "the model at its source is not what it should be; correct it there"


class SizeMismatch(ContentError):
    code = "size_mismatch"
    retryable = True


class DigestMismatch(ContentError):
    code = "digest_mismatch"


class ContentTypeInvalid(ContentError):
    code = "content_type_invalid"


class ArchiveInvalid(ContentError):
    code = "archive_invalid"


class ArchiveLimit(ContentError):
    code = "archive_limit"


class PathUnsafe(ContentError):
    """A name from the source that can't be a path in a snapshot."""

    code = "path_unsafe"


# --- space and disk ---------------------------------------------------------------------------


class NoSpace(CachdError):
    """Not now: what could make room is leased, pinned or in use.

    ``detail``: needed, free, quota, held_by (bytes each, and a list of holders).
    """

    code = "no_space"
    next_step = (
        "`cachd plan` tells what holds the space; raise store.quota or release leases and pins"
    )
    retryable = True


class TooLarge(NoSpace):
    """Never: larger than the whole quota."""

    code = "too_large"
    retryable = False


class DiskError(CachdError):
    code = "disk_failed"
    next_step = "check the volume; the daemon's log and /readyz say more"


class DiskFull(DiskError):
    code = "disk_full"


# --- the store --------------------------------------------------------------------------------


class StoreError(CachdError):
    code = "store_failed"


class ModelCorrupt(StoreError):
    """What is cached is known to be damaged, and can't be repaired now."""

    code = "model_corrupt"
    next_step = "ask again when the model's source can be reached: what is bad is fetched anew"
    retryable = True


class RootUnusable(StoreError):
    code = "root_unusable"


class RootLocked(StoreError):
    code = "root_locked"


class LayoutUnsupported(StoreError):
    code = "layout_unsupported"


class VolumeUnexpected(StoreError):
    code = "volume_unexpected"


class InUse(StoreError):
    """Leased, pinned or being fetched; say which, and how to let go."""

    code = "in_use"


class ViewUnavailable(StoreError):
    """This pod can't be given a view here; a copy it can have."""

    code = "view_unavailable"


class TooManyLeases(InUse):
    """``detail``: limit."""

    code = "too_many_leases"


# --- life cycle -------------------------------------------------------------------------------


class NotReady(CachdError):
    code = "not_ready"
    retryable = True


class Draining(NotReady):
    code = "draining"


class Overloaded(NotReady):
    """More was asked for than is queued; later."""

    code = "overloaded"


class SocketInUse(CachdError):
    code = "socket_in_use"


class Cancelled(CachdError):
    """Nobody wants the fetch any more; its journal is kept."""

    code = "cancelled"


class WorkerDied(CachdError):
    code = "worker_died"
    retryable = True


class KubernetesFailed(CachdError):
    """The API server can't be reached, or refuses."""

    code = "kubernetes_failed"
    retryable = True
    next_step = "see /readyz and the daemon's log"


class DeadlineExceeded(CachdError):
    code = "deadline_exceeded"


class DaemonUnreachable(CachdError):
    code = "daemon_unreachable"
    retryable = True


class DestinationUnusable(CachdError):
    code = "destination_unusable"
