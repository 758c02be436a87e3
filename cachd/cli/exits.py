"""Exit codes: one table from an error's ``code``. Nothing else in cachd knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cachd.errors import CachdError

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
NOT_FOUND: Final = 4
ACCESS: Final = 5
NO_SPACE: Final = 6
TIMEOUT: Final = 7
INTERRUPTED: Final = 130
TERMINATED: Final = 143

MEANING: Final[dict[int, str]] = {
    OK: "done",
    FAILURE: "failure: the origin, the content, the disk, or a defect of cachd",
    USAGE: "wrong usage, invalid input or configuration",
    UNREACHABLE: "the daemon can't be reached, or isn't ready",
    NOT_FOUND: "not found: at the source, or in the cache",
    ACCESS: "access refused, by the origin or by cachd's rules",
    NO_SPACE: "no space: in the cache, on its disk, or at the destination",
    TIMEOUT: "time limit reached, or cancelled",
    INTERRUPTED: "interrupted (SIGINT)",
    TERMINATED: "terminated (SIGTERM)",
}

EXIT_OF_CODE: Final[dict[str, int]] = {
    "request_invalid": USAGE,
    "config_invalid": USAGE,
    "uri_invalid": USAGE,
    "scheme_unknown": USAGE,
    "pattern_invalid": USAGE,
    "daemon_unreachable": UNREACHABLE,
    "not_ready": UNREACHABLE,
    "draining": UNREACHABLE,
    "overloaded": UNREACHABLE,
    "kubernetes_failed": UNREACHABLE,
    "not_found": NOT_FOUND,
    "model_unknown": NOT_FOUND,
    "file_unknown": NOT_FOUND,
    "lease_unknown": NOT_FOUND,
    "access_denied": ACCESS,
    "credentials_missing": ACCESS,
    "credentials_invalid": ACCESS,
    "credentials_expired": ACCESS,
    "forbidden": ACCESS,
    "egress_forbidden": ACCESS,
    "no_space": NO_SPACE,
    "too_large": NO_SPACE,
    "disk_full": NO_SPACE,
    "deadline_exceeded": TIMEOUT,
    "cancelled": TIMEOUT,
    "internal": FAILURE,
    "origin_failed": FAILURE,
    "origin_unreachable": FAILURE,
    "origin_tls": FAILURE,
    "origin_busy": FAILURE,
    "origin_stalled": FAILURE,
    "origin_moved": FAILURE,
    "origin_changed": FAILURE,
    "range_ignored": FAILURE,
    "offline": FAILURE,
    "upstream_loop": FAILURE,
    "content_invalid": FAILURE,
    "size_mismatch": FAILURE,
    "digest_mismatch": FAILURE,
    "content_type_invalid": FAILURE,
    "archive_invalid": FAILURE,
    "archive_limit": FAILURE,
    "path_unsafe": FAILURE,
    "disk_failed": FAILURE,
    "store_failed": FAILURE,
    "model_corrupt": FAILURE,
    "root_unusable": FAILURE,
    "view_unavailable": FAILURE,
    "root_locked": FAILURE,
    "layout_unsupported": FAILURE,
    "volume_unexpected": FAILURE,
    "in_use": FAILURE,
    "too_many_leases": FAILURE,
    "socket_in_use": FAILURE,
    "worker_died": FAILURE,
    "destination_unusable": FAILURE,
}


def exit_of(error: CachdError) -> int:
    """The exit code for ``error``; a code that this client doesn't know is a failure."""
    return EXIT_OF_CODE.get(error.code, FAILURE)


def table() -> str:
    """The codes as text for ``--help``."""
    return "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANING.items())
