"""JSON Schemas of pods' views."""

from __future__ import annotations

from typing import Final

from cachd.api.shapes import (
    BYTES,
    COUNT,
    FLAG,
    KEY,
    POD,
    TEXT,
    Schema,
    list_of,
    maybe,
    object_of,
    ref,
    said,
)

_MODE: Final[Schema] = {"type": "string", "enum": ["link", "copy"]}

VIEW_SCHEMAS: Final[dict[str, Schema]] = {
    "ViewRequest": object_of(
        {
            "pod": said(POD, "the pod's uid"),
            "name": said(maybe(TEXT), "path below the pod's directory; none: that itself"),
            "mode": said(
                {"enum": ["link", "copy", None]},
                "copy: files of its own, which any uid may write; else hard links",
            ),
        },
        required=("pod",),
        closed=True,
    ),
    "View": object_of(
        {
            "pod": TEXT,
            "pod_name": said(maybe(TEXT), "namespace/name, in lists, where that is known"),
            "name": TEXT,
            "key": KEY,
            "uri": TEXT,
            "revision": TEXT,
            "mode": said(_MODE, "copy also where no hard link can be had; notes say so"),
            "path": said(TEXT, "the directory, as the daemon sees it"),
            "device": said(COUNT, "the directory's st_dev …"),
            "inode": said(COUNT, "… and st_ino: a pod sees by them whether it has it mounted"),
            "files": COUNT,
            "bytes": BYTES,
            "writable": said(FLAG, "any uid may create files at its top"),
            "until": {"type": "string", "enum": ["pod", "ttl"]},
            "expires_in": said(maybe({"type": "number"}), "seconds from now; null: until pod"),
            "notes": said(list_of(TEXT), "what a person should know, in sentences"),
            "new": said(FLAG, "the ask that is answered made it"),
        }
    ),
    "Views": object_of({"views": list_of(ref("View"))}),
    "ViewsRemoved": object_of({"pod": TEXT, "removed": said(COUNT, "views that there were")}),
}
