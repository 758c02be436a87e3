"""JSON Schemas (2020-12) of what goes over the wire, by name. ``wire`` and ``asking`` are the code
that they describe."""

from __future__ import annotations

from typing import Final

from cachd.api.schemas_access import ACCESS_SCHEMAS
from cachd.api.schemas_views import VIEW_SCHEMAS
from cachd.api.shapes import (
    BYTES,
    COUNT,
    DIGEST,
    FLAG,
    FREE,
    KEY,
    POSITIVE,
    RESULT,
    SECONDS,
    TEXT,
    TIME,
    Schema,
    ref,
)
from cachd.api.shapes import list_of as _list
from cachd.api.shapes import maybe as _maybe
from cachd.api.shapes import object_of as _object
from cachd.api.shapes import said as _said

_STEPS: Final = ("resolving", "queued", "progress", "retry", "verifying")
_ENDS: Final = ("heartbeat", "ready", "error")

_PATIENCE: Final[Schema] = {
    "type": "number", "minimum": 1, "maximum": 600, "description": "seconds"
}  # fmt: skip

_CREDENTIALS = _object(
    {
        "access_key_id": _maybe(TEXT),
        "secret_access_key": _maybe(TEXT),
        "session_token": _maybe(TEXT),
        "anonymous": _said(_maybe(FLAG), "sign nothing, even if the daemon could"),
        "token": _said(_maybe(TEXT), "a bearer token for the source"),
        "headers": _said(
            _maybe(
                {
                    "type": "object",
                    "additionalProperties": _maybe(
                        {"type": "object", "additionalProperties": TEXT}
                    ),
                }
            ),
            "by host: header names and values that are sent to that host alone",
        ),
    },
    required=(),
    closed=True,
    description="They serve this caller only, live in memory only, and are never logged.",
)

_OPTIONS = _object(
    {
        "endpoint": _said(_maybe(TEXT), "URL of the source's endpoint; part of the model's key"),
        "region": _maybe(TEXT),
        "addressing": {"enum": ["auto", "path", "virtual", None]},
        "accelerate": _maybe(FLAG),
        "verify": _said(_maybe(FLAG), "verify the source's TLS certificate"),
        "ca_pem": _said(_maybe(TEXT), "PEM certificates trusted besides the system's"),
        "connect_timeout": _maybe(_PATIENCE),
        "read_timeout": _maybe(_PATIENCE),
        "max_attempts": _maybe({"type": "integer", "minimum": 1, "maximum": 20}),
    },
    required=(),
    closed=True,
)

_LEASE_REQUEST = {
    "pod": _said(_maybe(TEXT), "uid of the pod that it is to live as long as"),
    "holder": _said(_maybe(TEXT), "who holds it, for people to read"),
    "ttl": _said(_maybe(POSITIVE), "seconds; the daemon's settings have the default and a limit"),
}

_MODEL = {
    "key": KEY,
    "uri": TEXT,
    "origin": _said(TEXT, "the very server: scheme and effective endpoint"),
    "allow": _list(TEXT),
    "ignore": _list(TEXT),
    "state": {"type": "string", "enum": ["ready", "fetching"]},
    "revision": _maybe(TEXT),
    "revisions": _list(TEXT),
    "files": COUNT,
    "bytes": BYTES,
    "allocated": _said(BYTES, "bytes on disk, of all revisions"),
    "last_used": _maybe(TIME),
    "pinned": FLAG,
    "credentialed": _said(FLAG, "its source wanted credentials"),
    "validated": _said(FLAG, "its source has validators that tell every change"),
    "leases": COUNT,
    "corrupt": _said(FLAG, "known to be damaged on this disk: given to nobody"),
    "namespace": _said(_maybe(TEXT), "who pays for it; null: nobody, or it isn't told"),
    "progress": _maybe(ref("Progress")),
}
_VICTIM = _object(
    {
        "key": KEY,
        "revision": TEXT,
        "uri": TEXT,
        "bytes": BYTES,
        "last_used": TIME,
        "reason": TEXT,
    },
    required=("bytes", "reason"),
    description="Callers who may not see every model are told bytes and reason only.",
)

SCHEMAS: Final[dict[str, Schema]] = {
    **ACCESS_SCHEMAS,
    **VIEW_SCHEMAS,
    "Ask": _object(
        {
            "uri": _said({"type": "string", "minLength": 1, "maxLength": 8192}, "what to have"),
            "wait": _said(_maybe(FLAG), "false: start the fetch and answer 202 at once"),
            "timeout": _said(_maybe(POSITIVE), "seconds to wait; null: no limit"),
            "allow": _said(_maybe(_list(TEXT)), "patterns of files to take; none: all"),
            "ignore": _said(_maybe(_list(TEXT)), "patterns of files to leave out"),
            "priority": {"enum": ["interactive", "prefetch", None]},
            "credentials": _maybe(ref("Credentials")),
            "options": _maybe(ref("Options")),
            "lease": _said(_maybe(ref("LeaseRequest")), "keep the model from being evicted"),
            "view": _said(_maybe(ref("ViewRequest")), "a directory for a pod to mount"),
            "digests": _said(
                _maybe({"type": "object", "additionalProperties": DIGEST}),
                "by path: the digest that the file must have",
            ),
            "model_digest": _said(
                _maybe({"type": "string", "pattern": "^[Ss][Hh][Aa]256:[0-9A-Fa-f]{64}$"}),
                "sha256 over what sha256sum prints of all files, in the order of their paths",
            ),
        },
        required=("uri",),
        closed=True,
    ),
    "Credentials": _CREDENTIALS,
    "Options": _OPTIONS,
    "LeaseRequest": _object(_LEASE_REQUEST, required=(), closed=True),
    "LeaseTaking": _object({**_LEASE_REQUEST, "revision": _maybe(TEXT)}, required=(), closed=True),
    "LeaseRenewal": _object({"ttl": _LEASE_REQUEST["ttl"]}, required=(), closed=True),
    "Lease": _object(
        {
            "id": _said(TEXT, "unguessable, and a pass to read: the header Cachd-Lease takes it"),
            "key": KEY,
            "revision": TEXT,
            "holder": TEXT,
            "ttl": SECONDS,
            "pod": _said(_maybe(TEXT), "uid of the pod that it lives as long as"),
            "until": {"type": "string", "enum": ["pod", "ttl"]},
            "expires_in": _said(_maybe({"type": "number"}), "seconds from now; null: until pod"),
        }
    ),
    "LeaseReleased": _object({"key": KEY, "released": FLAG}),
    "Answer": _object(
        {
            "key": KEY,
            "revision": TEXT,
            "uri": TEXT,
            "origin": TEXT,
            "path": _said(TEXT, "directory of the snapshot, as the daemon sees it"),
            "files": COUNT,
            "bytes": BYTES,
            "result": RESULT,
            "shared_flight": _said(FLAG, "another caller's fetch brought it"),
            "validated": FLAG,
            "fetched_bytes": BYTES,
            "mirror": _said(
                _maybe(TEXT), "the endpoint that it was fetched from in its origin's place"
            ),
            "upstream": _said(_maybe(TEXT), "another cachd that gave some of the bytes"),
            "upstream_bytes": BYTES,
            "timings": _said(
                {"type": "object", "additionalProperties": SECONDS}, "seconds by phase"
            ),
            "lease": _maybe(ref("Lease")),
            "view": _maybe(ref("View")),
            "request_id": TEXT,
        }
    ),
    "Fetching": _object(
        {
            "key": KEY,
            "state": {"type": "string", "enum": ["fetching"]},
            "progress": _maybe(ref("Progress")),
        }
    ),
    "Progress": _said(FREE, "bytes, total, rate (bytes/s), eta (s), files_done, files_total, …"),
    "AskEvent": _object(
        {
            "event": {
                "type": "string",
                "enum": [*_STEPS, *_ENDS],
            }
        },
        description="One line. ready has the members of Answer, error those of Problem; one of the "
        "two is the last. A line comes at least every 5 s.",
    ),
    "CacheEvent": _object({"event": TEXT, "time": TIME, "key": KEY}, required=("event",)),
    "Model": _object(_MODEL),
    "ModelDetails": _object(
        {
            **_MODEL,
            "manifest_files": _list(
                _object(
                    {
                        "path": TEXT,
                        "size": BYTES,
                        "etag": _said(_maybe(TEXT), "as the origin sent it"),
                        "blocks": _said(COUNT, "number of checksummed blocks"),
                        "digests": {"type": "object", "additionalProperties": TEXT},
                        "checksums": _said(_list(TEXT), "of each block, with blocks=true"),
                    },
                    required=("path", "size", "etag", "blocks", "digests"),
                )
            ),
            "metadata": {"type": "object", "additionalProperties": TEXT},
            "immutable": _said(FLAG, "its URI names this revision for ever"),
            "verified": _said(
                {"type": "object", "additionalProperties": COUNT},
                "by algorithm: files compared with a digest of the source's or of a caller's pin",
            ),
            "unverified": _said(COUNT, "files of which nobody gave a digest"),
            "model_digest": _said(_maybe(TEXT), "where every file's sha256 is known"),
            "checked_ago": _said(
                _maybe(SECONDS), "seconds since its source was last looked at; null: not yet"
            ),
            "refresh_in": _said(
                _maybe(SECONDS), "seconds until it is by schedule; null: only when it is asked for"
            ),
            "block_size": _said(BYTES, "bytes of each block but a file's last; with blocks=true"),
            "lease_list": _said(_list(ref("Lease")), "for administrators; ids are shortened"),
        },
        required=(
            *_MODEL,
            "manifest_files",
            "metadata",
            "verified",
            "unverified",
            "model_digest",
            "checked_ago",
            "refresh_in",
        ),
    ),
    "Prefetched": _said(FREE, "prefetch: uri, pin, every, key, revision, state, failures, code, …"),
    "Models": _object({"models": _list(ref("Model")), "store": ref("Usage")}),
    "Usage": _said(FREE, "bytes: allocated, reserved, quota, free, …; counts: models, leases, …"),
    "Removed": _object({"freed": BYTES}),
    "Pin": _object({"key": KEY, "pinned": FLAG}),
    "Ref": _object(
        {
            "uri": TEXT,
            "origin": TEXT,
            "allow": _list(TEXT),
            "ignore": _list(TEXT),
            "key": KEY,
        }
    ),
    "SpaceQuestion": _object({"bytes": _maybe(BYTES)}, closed=True),
    "SpacePlan": _object(
        {
            "result": {"type": "string", "enum": ["hit", "miss"]},
            "fits": FLAG,
            "needed": BYTES,
            "free": BYTES,
            "quota": BYTES,
            "free_floor": BYTES,
            "allocated": BYTES,
            "reserved": BYTES,
            "evict": _list(ref("Victim")),
            "shortfall": BYTES,
            "held_by": _list(FREE),
        }
    ),
    "Victim": _VICTIM,
    "Collection": _object(
        {
            "dry_run": _maybe(FLAG),
            "target": _said(_maybe(BYTES), "bytes to get down to; null: the low watermark"),
        },
        required=(),
        closed=True,
    ),
    "Collected": _object({"evicted": _list(ref("Victim")), "freed": BYTES, "dry_run": FLAG}),
    "Verification": _object(
        {
            "repair": _said(_maybe(FLAG), "fetch what is bad again; null: only find it"),
            "rate": _said(_maybe(BYTES), "bytes/s, 0: no limit; null: as scrub.rate says"),
        },
        required=(),
        closed=True,
    ),
    "VerifyEvent": _object(
        {"event": {"type": "string", "enum": ["checking", "progress", "checked", *_ENDS]}},
        description="One line. checked has the members of Finding, ready those of Verified, error "
        "those of Problem; one of the last two is the last. A line comes at least every 5 s.",
    ),
    "Verified": _object(
        {
            "ok": _said(FLAG, "whether nothing is bad any more"),
            "snapshots": _said(COUNT, "that were read"),
            "bytes": BYTES,
            "bad_blocks": COUNT,
            "repaired_blocks": COUNT,
            "corrupt": _said(COUNT, "snapshots that are bad still"),
            "findings": _said(_list(ref("Finding")), "snapshots where something was found"),
        }
    ),
    "Finding": _object(
        {
            "key": KEY,
            "revision": TEXT,
            "uri": TEXT,
            "state": {"type": "string", "enum": ["good", "repaired", "corrupt", "gone"]},
            "bytes": BYTES,
            "bad_blocks": COUNT,
            "repaired_blocks": COUNT,
            "files": _list(
                _object(
                    {
                        "path": TEXT,
                        "problem": {
                            "type": "string",
                            "enum": ["blocks", "size", "missing", "unreadable"],
                        },
                        "blocks": _said(_list(COUNT), "numbers of the bad ones"),
                        "ranges": _list(_object({"offset": BYTES, "length": BYTES})),
                        "repaired": FLAG,
                    }
                )
            ),
            "extra": _said(_list(TEXT), "files that no manifest lists"),
            "has_strangers": _said(FLAG, "some of them are still there"),
            "reason": _said(TEXT, "why it was not repaired, or empty"),
        }
    ),
    "Alive": _object({"alive": FLAG}),
    "Readiness": _object({"ready": FLAG, "reasons": _list(TEXT), "degraded": _list(TEXT)}),
    "Problem": _object(
        {
            "type": TEXT,
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "code": _said(TEXT, "stable; what programs decide by"),
            "field": _said(TEXT, "the field of the request that is at fault"),
            "hint": _said(TEXT, "what to do next"),
            "request_id": TEXT,
            "retry_after": SECONDS,
        },
        required=("type", "title", "status", "detail", "code", "hint", "request_id"),
        description="RFC 9457, with the error's facts (sizes in bytes) as further members.",
    ),
}
