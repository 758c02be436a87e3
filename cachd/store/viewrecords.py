"""What is known of each view: one small file, written before the first link and after the last."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cachd.errors import InvalidError
from cachd.names import check_view_name, is_pod
from cachd.store.decode import are_texts, check, decode_ref, is_size, parse_object
from cachd.store.layout import is_hex

if TYPE_CHECKING:
    import builtins
    from pathlib import Path

    from cachd.model import Ref
    from cachd.store.types import ViewMode

Until = Literal["pod", "ttl"]
"""What ends a lease or a view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRecord:
    """``files`` and ``bytes`` are the model's. ``ttl`` in seconds. ``boot_id``: of its making."""

    pod: str
    name: str
    ref: Ref
    revision: str
    mode: ViewMode
    files: int
    bytes: int
    until: Until
    ttl: float
    boot_id: str
    is_complete: bool
    note: str = ""
    namespace: str | None = None

    @property
    def file_name(self) -> str:
        return record_name(self.pod, self.name)

    def encode(self) -> builtins.bytes:
        data = {
            "pod": self.pod,
            "name": self.name,
            "ref": self.ref.to_json(),
            "revision": self.revision,
            "mode": self.mode,
            "files": self.files,
            "bytes": self.bytes,
            "until": self.until,
            "ttl": self.ttl,
            "boot_id": self.boot_id,
            "complete": self.is_complete,
            "note": self.note,
            "namespace": self.namespace,
        }
        return json.dumps(data).encode("ascii") + b"\n"


def record_name(pod: str, name: str) -> str:
    return hashlib.sha256(f"{pod}/{name}".encode("utf-8", "surrogateescape")).hexdigest()


def read_record(path: Path) -> ViewRecord:
    """Blocking. Raises OSError, ValueError."""
    try:
        data = parse_object(path.read_bytes())
        record = ViewRecord(
            pod=data["pod"],
            name=data["name"],
            ref=decode_ref(data["ref"]),
            revision=data["revision"],
            mode=data["mode"],
            files=data["files"],
            bytes=data["bytes"],
            until=data["until"],
            ttl=float(data["ttl"]),
            boot_id=data["boot_id"],
            is_complete=data["complete"],
            note=data["note"],
            namespace=data.get("namespace"),
        )
        texts = (record.pod, record.name, record.revision, record.boot_id, record.note)
        check(are_texts(texts), "the view")
        check(record.namespace is None or are_texts((record.namespace,)), "who pays for the view")
        check(is_pod(record.pod), "the view's pod")
        check_view_name(record.name)
        check(is_hex(record.ref.key) and is_hex(record.revision), "the view's key")
        check(record.mode in ("link", "copy"), "the view's mode")
        check(record.until in ("pod", "ttl"), "the view's end")
        check(is_size(record.files) and is_size(record.bytes), "the view's size")
        check(0 < record.ttl < math.inf, "the view's ttl")
        check(type(record.is_complete) is bool, "whether the view is complete")
        check(path.name == record.file_name, "the record's name")
    except (KeyError, TypeError, ValueError, OverflowError, InvalidError) as error:
        raise ValueError(f"{path} is no view: {error!r}") from None
    return record
