"""What JSON Schemas are built from."""

from __future__ import annotations

from typing import Any, Final

from cachd.model import DIGEST_DIGITS

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(
    properties: dict[str, Schema],
    *,
    required: tuple[str, ...] | None = None,
    closed: bool = False,
    description: str = "",
) -> Schema:
    """``required`` None: all of them."""
    schema: Schema = {"type": "object", "properties": properties}
    names = list(properties) if required is None else list(required)
    if names:
        schema["required"] = names
    if closed:
        schema["additionalProperties"] = False
    if description:
        schema["description"] = description
    return schema


def maybe(schema: Schema) -> Schema:
    if "type" in schema and isinstance(schema["type"], str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"oneOf": [schema, {"type": "null"}]}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def said(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0, "description": "seconds"}
POSITIVE: Final[Schema] = {"type": "number", "exclusiveMinimum": 0, "description": "seconds"}
BYTES: Final[Schema] = {
    "type": "integer", "minimum": 0, "maximum": 2**63 - 1, "description": "bytes"
}  # fmt: skip
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
KEY: Final[Schema] = {"type": "string", "pattern": "^([0-9a-f]{16}|[0-9a-f]{32})$"}
POD: Final[Schema] = {"type": "string", "pattern": "^[0-9a-z][0-9a-z.-]{0,126}$"}
FREE: Final[Schema] = {"type": "object", "additionalProperties": True}
DIGEST: Final[Schema] = {
    "type": "string",
    "description": f"ALGORITHM:HEX; {', '.join(DIGEST_DIGITS)}",
    "pattern": "^[A-Za-z0-9-]+:[0-9A-Fa-f]+$",
}
RESULT: Final[Schema] = {"type": "string", "enum": ["hit", "miss", "stale"]}
