"""JSON Schemas of what is asked about access rules."""

from __future__ import annotations

from typing import Any, Final, get_args

from cachd.settings import Verb

ACCESS_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "MayQuestion": {
        "type": "object",
        "properties": {
            "verb": {"enum": list(get_args(Verb))},
            "uri": {"type": ["string", "null"], "description": "null: what concerns no one model"},
            "uid": {"type": ["integer", "null"], "minimum": 0, "maximum": 2**32 - 1},
            "namespace": {"type": ["string", "null"]},
            "service_account": {
                "type": ["string", "null"],
                "description": "NAME, or NAMESPACE/NAME; null: default, where there is a namespace",
            },
        },
        "required": ["verb"],
        "additionalProperties": False,
    },
    "Decision": {
        "type": "object",
        "properties": {
            "verb": {"type": "string"},
            "uri": {"type": ["string", "null"]},
            "allowed": {"type": "boolean"},
            "rule": {
                "type": ["string", "null"],
                "description": "the one that decides; null: none",
            },
            "reason": {"type": "string"},
            "identity": {
                "type": "boolean",
                "description": "whether the daemon's own identity is lent",
            },
            "open_hits": {
                "type": "boolean",
                "description": "whether hits are given without asking the source",
            },
        },
        "required": ["verb", "uri", "allowed", "rule", "reason", "identity", "open_hits"],
    },
}
