"""JSON Schemas of newer revisions, and of who chose which is given."""

from __future__ import annotations

from typing import Final

from cachd.api.shapes import FLAG, KEY, TEXT, TIME, Schema, list_of, maybe, object_of, said

UPDATE_SCHEMAS: Final[dict[str, Schema]] = {
    "Update": object_of(
        {
            "revision": TEXT,
            "state": said(
                {"type": "string", "enum": ["seen", "ready"]},
                "ready: it is here; seen: only its source has it",
            ),
            "seen": said(TIME, "since when it is known"),
            "move": {"type": "string", "enum": ["on_ready", "manual", "schedule"]},
            "window": said(list_of(TEXT), "for schedule: the times in which it may move"),
            "approved": said(FLAG, "it becomes current when it is here"),
        },
        description="A newer revision than the one that is given.",
    ),
    "Promoted": object_of(
        {
            "revision": TEXT,
            "by": said(TEXT, "who made it current: a person, or schedule"),
            "at": TIME,
            "refused": said(list_of(TEXT), "revisions that no rule makes current again"),
        }
    ),
    "PromotionWish": object_of(
        {"revision": said(maybe(TEXT), "null: the one that waits")}, required=(), closed=True
    ),
    "Promotion": object_of(
        {
            "key": KEY,
            "revision": TEXT,
            "previous": said(TEXT, "what was current before, or empty"),
            "state": {"type": "string", "enum": ["promoted", "approved", "fetching"]},
        }
    ),
}
