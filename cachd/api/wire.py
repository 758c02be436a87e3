"""The cache's answers as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from aiohttp import web

from cachd.cache.digest_pins import MODEL_ALGORITHM, model_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cachd.cache.types import Answer, Event, Lease, ModelInfo, Promoted, Snapshot, Update, View
    from cachd.model import ManifestFile


def dumps(value: object) -> bytes:
    """``value`` as one line of JSON; pure ASCII, so that odd file names survive."""
    return json.dumps(value, default=_default, separators=(",", ":")).encode() + b"\n"


def _default(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def reply(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON response."""
    return web.Response(
        status=status, body=dumps(value), content_type="application/json", headers=headers
    )


def timestamp(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339, in UTC."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lease(value: Lease) -> dict[str, Any]:
    return {
        "id": value.id,
        "key": value.key,
        "revision": value.revision,
        "holder": value.holder,
        "ttl": value.ttl,
        "pod": value.pod or None,
        "until": "pod" if value.expires_in is None else "ttl",
        "expires_in": value.expires_in,
    }


def view(value: View) -> dict[str, Any]:
    return {
        "pod": value.pod,
        "pod_name": value.pod_name or None,
        "name": value.name,
        "key": value.key,
        "uri": value.uri,
        "revision": value.revision,
        "mode": value.mode,
        "path": value.path,
        "device": value.device,
        "inode": value.inode,
        "files": value.files,
        "bytes": value.bytes,
        "writable": value.is_writable,
        "until": "pod" if value.expires_in is None else "ttl",
        "expires_in": value.expires_in,
        "notes": list(value.notes),
        "new": value.is_new,
    }


def update(value: Update | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        "revision": value.revision,
        "state": value.state,
        "seen": timestamp(value.seen),
        "move": value.move,
        "window": list(value.window),
        "approved": value.is_approved,
    }


def promoted(value: Promoted | None) -> dict[str, Any] | None:
    if value is None:
        return None
    refused = list(value.refused)
    return {
        "revision": value.revision,
        "by": value.by,
        "at": timestamp(value.at),
        "refused": refused,
    }


def answer(value: Answer, request_id: str) -> dict[str, Any]:
    return {
        "key": value.key,
        "revision": value.revision,
        "uri": value.uri,
        "origin": value.origin,
        "path": value.path,
        "files": value.files,
        "bytes": value.bytes,
        "result": value.result,
        "shared_flight": value.is_shared_flight,
        "validated": value.is_validated,
        "fetched_bytes": value.fetched_bytes,
        "mirror": value.mirror or None,
        "upstream": value.upstream or None,
        "upstream_bytes": value.upstream_bytes,
        "timings": value.timings,
        "update": update(value.update),
        "lease": lease(value.lease) if value.lease else None,
        "view": view(value.view) if value.view else None,
        "request_id": request_id,
    }


def event(value: Event, request_id: str) -> dict[str, Any]:
    """One line of progress; the ready one carries the answer."""
    line: dict[str, Any] = {"event": value.name, **value.data}
    if value.answer is not None:
        line.update(answer(value.answer, request_id))
    return line


def model(value: ModelInfo) -> dict[str, Any]:
    return {
        "key": value.key,
        "uri": value.ref.uri,
        "origin": value.ref.origin,
        "allow": list(value.ref.allow),
        "ignore": list(value.ref.ignore),
        "state": value.state,
        "revision": value.revision,
        "revisions": list(value.revisions),
        "files": value.files,
        "bytes": value.bytes,
        "allocated": value.allocated,
        "last_used": timestamp(value.last_used),
        "pinned": value.is_pinned,
        "credentialed": value.is_credentialed,
        "validated": value.is_validated,
        "leases": value.leases,
        "corrupt": value.is_corrupt,
        "namespace": value.namespace,
        "update": update(value.update),
        "progress": value.progress,
    }


def manifest_file(value: ManifestFile, *, blocks: bool = False) -> dict[str, Any]:
    """``blocks``: with the checksum of each."""
    return {
        "path": value.path,
        "size": value.size,
        "etag": value.etag,
        "blocks": len(value.blocks),
        "digests": {digest.algorithm: digest.value for digest in value.digests},
        **({"checksums": list(value.blocks)} if blocks else {}),
    }


def verified(files: Sequence[ManifestFile]) -> dict[str, Any]:
    """How many files were compared with what, and how many with nothing but their block checksums
    as they arrived. The model digest where every file's sha256 is known."""
    names = Counter(name for file in files for name in {d.algorithm for d in file.digests})
    sums = {f.path: d.value for f in files for d in f.digests if d.algorithm == MODEL_ALGORITHM}
    is_known = bool(files) and len(sums) == len(files)
    return {
        "verified": dict(sorted(names.items())),
        "unverified": sum(1 for file in files if not file.digests),
        "model_digest": f"{MODEL_ALGORITHM}:{model_digest(sums)}" if is_known else None,
    }


def model_details(
    value: ModelInfo, snapshot: Snapshot | None, *, blocks: bool = False
) -> dict[str, Any]:
    """``model`` with the files of its snapshot; ``blocks``: and their checksums."""
    manifest = snapshot.manifest if snapshot else None
    files = manifest.files if manifest else ()
    return {
        **model(value),
        "manifest_files": [manifest_file(f, blocks=blocks) for f in files],
        **verified(files),
        "metadata": dict(manifest.metadata) if manifest else {},
        "immutable": bool(manifest and manifest.is_immutable),
        "checked_ago": value.checked_ago,
        "refresh_in": value.refresh_in,
        "promoted": promoted(value.promoted),
        **({"block_size": manifest.block_size} if manifest and blocks else {}),
    }


def with_times(value: Mapping[str, Any], *lists: str) -> dict[str, Any]:
    """``value`` with ``last_used`` of the objects in ``lists`` as RFC 3339."""
    changed = dict(value)
    for name in lists:
        changed[name] = [_with_time(item) for item in value.get(name) or ()]
    return changed


def _with_time(item: Any) -> Any:
    data = asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
    if isinstance(data, dict) and isinstance(data.get("last_used"), int | float):
        return {**data, "last_used": timestamp(data["last_used"])}
    return data
