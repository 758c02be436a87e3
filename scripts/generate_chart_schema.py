"""Put the schema of the settings into the chart's values.schema.json, as that of ``config``.

With ``--check`` only say whether it is up to date (status 1: it isn't).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from cachd.settings import Settings

if TYPE_CHECKING:
    from pydantic_core import core_schema

FILE = Path(__file__).parent.parent / "charts" / "cachd" / "values.schema.json"
# A number with a unit as cachd.settings reads it, or a percentage.
_UNIT = r"[kKmMgGtTpPeE]([iI]?([bB]([iI][tT])?)?)?|[bB]([iI][tT])?"
SIZE_OR_SHARE = rf"^\s*(\d*\.?\d+\s*({_UNIT})?|(100(\.0*)?|\d{{1,2}}(\.\d*)?|\.\d+)\s*%)\s*$"
TYPES_OF_SIZES = {"type": ["string", "integer"], "pattern": SIZE_OR_SHARE, "minimum": 0}


class _Schema(GenerateJsonSchema):
    """Sizes and shares ("200GiB", "85%", 1024) are a class of ours: text or a whole number."""

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        return dict(TYPES_OF_SIZES)


def generate(values_schema: dict[str, Any]) -> dict[str, Any]:
    """``values_schema`` with ``config`` as the settings are now."""
    settings = Settings.model_json_schema(
        schema_generator=_Schema, ref_template="#/$defs/{model}", mode="validation"
    )
    definitions = settings.pop("$defs")
    settings["description"] = "cachd's own configuration, rendered unchanged."
    properties = values_schema["properties"] | {"config": _plain(settings)}
    return values_schema | {"properties": properties, "$defs": _plain(definitions)}


def _plain(schema: Any) -> Any:
    """Without defaults and titles: Helm shows neither, and values.yaml has its own. A `$ref` stands
    alone, as draft 7 wants it."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    return {
        name: {key: _plain(value) for key, value in item.items()}
        if name in {"properties", "$defs"}
        else _plain(item)
        for name, item in schema.items()
        if not (name == "default" or (name == "title" and isinstance(item, str)))
    }


def main() -> int:
    before = FILE.read_text(encoding="utf-8")
    after = json.dumps(generate(json.loads(before)), indent=2, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        if before != after:
            sys.stderr.write("charts/cachd/values.schema.json is out of date: run `make docs`\n")
        return int(before != after)
    FILE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
