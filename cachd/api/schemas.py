"""JSON Schemas (2020-12) of what goes over the wire, by name. ``wire`` and ``asking`` are the code
that they describe."""

from __future__ import annotations

from typing import Final

from cachd.api.schemas_access import ACCESS_SCHEMAS
from cachd.api.schemas_updates import UPDATE_SCHEMAS
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
    list_of,
    maybe,
    object_of,
    ref,
    said,
)
from cachd.credentials import NAMED

_STEPS: Final = ("resolving", "queued", "progress", "retry", "verifying")
_ENDS: Final = ("heartbeat", "ready", "error")

_PATIENCE: Final[Schema] = {
    "type": "number", "minimum": 1, "maximum": 600, "description": "seconds, 1 to 600"
}  # fmt: skip

_CREDENTIALS = object_of(
    {
        "access_key_id": said(maybe(TEXT), "keys for S3"),
        "secret_access_key": maybe(TEXT),
        "session_token": maybe(TEXT),
        "anonymous": said(maybe(FLAG), "sign nothing, even if the daemon could"),
        "token": said(maybe(TEXT), "a bearer token for the source, such as a hub's"),
        **{name: said(maybe(TEXT), text) if text else maybe(TEXT) for name, text in NAMED.items()},
        "headers": said(
            maybe(
                {
                    "type": "object",
                    "additionalProperties": maybe({"type": "object", "additionalProperties": TEXT}),
                }
            ),
            "by host: header names and values that are sent to that host alone",
        ),
    },
    required=(),
    closed=True,
    description="They serve this caller only, live in memory only, and are never logged.",
)

_OPTIONS = object_of(
    {
        "endpoint": said(maybe(TEXT), "URL of the source's endpoint; part of the model's key"),
        "region": said(maybe(TEXT), "of S3 buckets"),
        "addressing": said(
            {"enum": ["auto", "path", "virtual", None]},
            "where the bucket is named at S3: in the path, or in the host (virtual)",
        ),
        "accelerate": said(maybe(FLAG), "AWS's transfer acceleration"),
        "verify": said(maybe(FLAG), "verify the source's TLS certificate"),
        "ca_pem": said(maybe(TEXT), "PEM certificates trusted besides the system's"),
        "connect_timeout": maybe(_PATIENCE),
        "read_timeout": maybe(_PATIENCE),
        "max_attempts": said(
            maybe({"type": "integer", "minimum": 1, "maximum": 20}), "of one call, 1 to 20"
        ),
        "registry": said(maybe(TEXT), "URL of the registry that names the model; part of the key"),
        "registry_verify": said(maybe(FLAG), "verify the registry's TLS certificate"),
        "registry_ca_pem": said(maybe(TEXT), "PEM certificates trusted for the registry"),
        "root": said(maybe(TEXT), "a directory of the source that paths begin in"),
        "user": said(maybe(TEXT), "whom the source is to take for the caller, where it allows it"),
        "authority": said(maybe(TEXT), "URL of who gives tokens for the source"),
        "plain_http": said(maybe(FLAG), "call the OCI registry without TLS"),
    },
    required=(),
    closed=True,
)

_LEASE_REQUEST = {
    "pod": said(maybe(TEXT), "uid of the pod that it is to live as long as"),
    "holder": said(maybe(TEXT), "who holds it, for people to read"),
    "ttl": said(maybe(POSITIVE), "seconds; the daemon's settings have the default and a limit"),
}

_MODEL = {
    "key": KEY,
    "uri": TEXT,
    "origin": said(TEXT, "the very server: scheme and effective endpoint"),
    "allow": list_of(TEXT),
    "ignore": list_of(TEXT),
    "state": {"type": "string", "enum": ["ready", "fetching"]},
    "revision": maybe(TEXT),
    "revisions": list_of(TEXT),
    "files": COUNT,
    "bytes": BYTES,
    "allocated": said(BYTES, "bytes on disk, of all revisions"),
    "last_used": maybe(TIME),
    "pinned": FLAG,
    "credentialed": said(FLAG, "its source wanted credentials"),
    "validated": said(FLAG, "its source has validators that tell every change"),
    "leases": COUNT,
    "corrupt": said(FLAG, "known to be damaged on this disk: given to nobody"),
    "namespace": said(maybe(TEXT), "who pays for it; null: nobody, or it isn't told"),
    "update": said(maybe(ref("Update")), "what its source has and nobody is given yet"),
    "progress": maybe(ref("Progress")),
}
_VICTIM = object_of(
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
    **UPDATE_SCHEMAS,
    **VIEW_SCHEMAS,
    "Ask": object_of(
        {
            "uri": said({"type": "string", "minLength": 1, "maxLength": 8192}, "what to have"),
            "wait": said(maybe(FLAG), "false: answer 202 once the model is listed"),
            "timeout": said(maybe(POSITIVE), "seconds to wait; null: no limit"),
            "allow": said(maybe(list_of(TEXT)), "patterns of files to take; none: all"),
            "ignore": said(maybe(list_of(TEXT)), "patterns of files to leave out"),
            "priority": {"enum": ["interactive", "prefetch", None]},
            "credentials": maybe(ref("Credentials")),
            "options": maybe(ref("Options")),
            "lease": said(maybe(ref("LeaseRequest")), "keep the model from being evicted"),
            "view": said(maybe(ref("ViewRequest")), "a directory for a pod to mount"),
            "digests": said(
                maybe({"type": "object", "additionalProperties": DIGEST}),
                "by path: the digest that the file must have",
            ),
            "model_digest": said(
                maybe({"type": "string", "pattern": "^[Ss][Hh][Aa]256:[0-9A-Fa-f]{64}$"}),
                "sha256 over what sha256sum prints of all files, in the order of their paths",
            ),
        },
        required=("uri",),
        closed=True,
    ),
    "Credentials": _CREDENTIALS,
    "Options": _OPTIONS,
    "LeaseRequest": object_of(_LEASE_REQUEST, required=(), closed=True),
    "LeaseTaking": object_of({**_LEASE_REQUEST, "revision": maybe(TEXT)}, required=(), closed=True),
    "LeaseRenewal": object_of({"ttl": _LEASE_REQUEST["ttl"]}, required=(), closed=True),
    "Lease": object_of(
        {
            "id": said(TEXT, "unguessable, and a pass to read: the header Cachd-Lease takes it"),
            "key": KEY,
            "revision": TEXT,
            "holder": TEXT,
            "ttl": SECONDS,
            "pod": said(maybe(TEXT), "uid of the pod that it lives as long as"),
            "until": {"type": "string", "enum": ["pod", "ttl"]},
            "expires_in": said(maybe({"type": "number"}), "seconds from now; null: until pod"),
        }
    ),
    "LeaseReleased": object_of({"key": KEY, "released": FLAG}),
    "Answer": object_of(
        {
            "key": KEY,
            "revision": TEXT,
            "uri": TEXT,
            "origin": TEXT,
            "path": said(TEXT, "directory of the snapshot, as the daemon sees it"),
            "files": COUNT,
            "bytes": BYTES,
            "result": RESULT,
            "shared_flight": said(FLAG, "another caller's fetch brought it"),
            "validated": FLAG,
            "fetched_bytes": BYTES,
            "mirror": said(
                maybe(TEXT), "the endpoint that it was fetched from in its origin's place"
            ),
            "upstream": said(maybe(TEXT), "another cachd that gave some of the bytes"),
            "upstream_bytes": BYTES,
            "timings": said(
                {"type": "object", "additionalProperties": SECONDS}, "seconds by phase"
            ),
            "update": said(maybe(ref("Update")), "what its source has and nobody is given yet"),
            "lease": maybe(ref("Lease")),
            "view": maybe(ref("View")),
            "request_id": TEXT,
        }
    ),
    "Fetching": object_of(
        {
            "key": KEY,
            "state": {"type": "string", "enum": ["fetching"]},
            "progress": maybe(ref("Progress")),
        }
    ),
    "Progress": said(FREE, "bytes, total, rate (bytes/s), eta (s), files_done, files_total, …"),
    "AskEvent": object_of(
        {
            "event": {
                "type": "string",
                "enum": [*_STEPS, *_ENDS],
            }
        },
        description="One line. ready has the members of Answer, error those of Problem; one of the "
        "two is the last. A line comes at least every 5 s.",
    ),
    "CacheEvent": object_of({"event": TEXT, "time": TIME, "key": KEY}, required=("event",)),
    "Model": object_of(_MODEL),
    "ModelDetails": object_of(
        {
            **_MODEL,
            "manifest_files": list_of(
                object_of(
                    {
                        "path": TEXT,
                        "size": BYTES,
                        "etag": said(maybe(TEXT), "as the origin sent it"),
                        "blocks": said(COUNT, "number of checksummed blocks"),
                        "digests": {"type": "object", "additionalProperties": TEXT},
                        "checksums": said(list_of(TEXT), "of each block, with blocks=true"),
                    },
                    required=("path", "size", "etag", "blocks", "digests"),
                )
            ),
            "metadata": {"type": "object", "additionalProperties": TEXT},
            "immutable": said(FLAG, "its URI names this revision for ever"),
            "verified": said(
                {"type": "object", "additionalProperties": COUNT},
                "by algorithm: files compared with a digest of the source's or of a caller's pin",
            ),
            "unverified": said(COUNT, "files of which nobody gave a digest"),
            "model_digest": said(maybe(TEXT), "where every file's sha256 is known"),
            "checked_ago": said(
                maybe(SECONDS), "seconds since its source was last looked at; null: not yet"
            ),
            "refresh_in": said(
                maybe(SECONDS), "seconds until it is by schedule; null: only when it is asked for"
            ),
            "promoted": said(maybe(ref("Promoted")), "for administrators"),
            "block_size": said(BYTES, "bytes of each block but a file's last; with blocks=true"),
            "lease_list": said(list_of(ref("Lease")), "for administrators; ids are shortened"),
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
    "Prefetched": said(FREE, "prefetch: uri, pin, every, key, revision, state, failures, code, …"),
    "Models": object_of({"models": list_of(ref("Model")), "store": ref("Usage")}),
    "Usage": said(FREE, "bytes: allocated, reserved, quota, free, …; counts: models, leases, …"),
    "Removed": object_of({"freed": BYTES}),
    "Pin": object_of({"key": KEY, "pinned": FLAG}),
    "Ref": object_of(
        {
            "uri": TEXT,
            "origin": TEXT,
            "allow": list_of(TEXT),
            "ignore": list_of(TEXT),
            "key": KEY,
        }
    ),
    "SpaceQuestion": object_of({"bytes": maybe(BYTES)}, closed=True),
    "SpacePlan": object_of(
        {
            "result": {"type": "string", "enum": ["hit", "miss"]},
            "fits": FLAG,
            "needed": BYTES,
            "free": BYTES,
            "quota": BYTES,
            "free_floor": BYTES,
            "allocated": BYTES,
            "reserved": BYTES,
            "evict": list_of(ref("Victim")),
            "shortfall": BYTES,
            "held_by": list_of(FREE),
        }
    ),
    "Victim": _VICTIM,
    "Collection": object_of(
        {
            "dry_run": maybe(FLAG),
            "target": said(maybe(BYTES), "bytes to get down to; null: the low watermark"),
        },
        required=(),
        closed=True,
    ),
    "Collected": object_of({"evicted": list_of(ref("Victim")), "freed": BYTES, "dry_run": FLAG}),
    "Verification": object_of(
        {
            "repair": said(maybe(FLAG), "fetch what is bad again; null: only find it"),
            "rate": said(maybe(BYTES), "bytes/s, 0: no limit; null: as scrub.rate says"),
        },
        required=(),
        closed=True,
    ),
    "VerifyEvent": object_of(
        {"event": {"type": "string", "enum": ["checking", "progress", "checked", *_ENDS]}},
        description="One line. checked has the members of Finding, ready those of Verified, error "
        "those of Problem; one of the last two is the last. A line comes at least every 5 s.",
    ),
    "Verified": object_of(
        {
            "ok": said(FLAG, "whether nothing is bad any more"),
            "snapshots": said(COUNT, "that were read"),
            "bytes": BYTES,
            "bad_blocks": COUNT,
            "repaired_blocks": COUNT,
            "corrupt": said(COUNT, "snapshots that are bad still"),
            "findings": said(list_of(ref("Finding")), "snapshots where something was found"),
        }
    ),
    "Finding": object_of(
        {
            "key": KEY,
            "revision": TEXT,
            "uri": TEXT,
            "state": {"type": "string", "enum": ["good", "repaired", "corrupt", "gone"]},
            "bytes": BYTES,
            "bad_blocks": COUNT,
            "repaired_blocks": COUNT,
            "files": list_of(
                object_of(
                    {
                        "path": TEXT,
                        "problem": {
                            "type": "string",
                            "enum": ["blocks", "size", "missing", "unreadable"],
                        },
                        "blocks": said(list_of(COUNT), "numbers of the bad ones"),
                        "ranges": list_of(object_of({"offset": BYTES, "length": BYTES})),
                        "repaired": FLAG,
                    }
                )
            ),
            "extra": said(list_of(TEXT), "files that no manifest lists"),
            "has_strangers": said(FLAG, "some of them are still there"),
            "reason": said(TEXT, "why it was not repaired, or empty"),
        }
    ),
    "Alive": object_of({"alive": FLAG}),
    "Readiness": object_of({"ready": FLAG, "reasons": list_of(TEXT), "degraded": list_of(TEXT)}),
    "Problem": object_of(
        {
            "type": TEXT,
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "code": said(TEXT, "stable; what programs decide by"),
            "field": said(TEXT, "the field of the request that is at fault"),
            "hint": said(TEXT, "what to do next"),
            "request_id": TEXT,
            "retry_after": SECONDS,
        },
        required=("type", "title", "status", "detail", "code", "hint", "request_id"),
        description="RFC 9457, with the error's facts (sizes in bytes) as further members.",
    ),
}
