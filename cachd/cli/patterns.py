"""Where the client's allow and ignore patterns come from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cachd.errors import PatternInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALLOW_VARIABLE = "STORAGE_ALLOW_PATTERNS"
IGNORE_VARIABLE = "STORAGE_IGNORE_PATTERNS"


def parse_patterns(text: str, name: str) -> tuple[str, ...]:
    """A JSON list, a JSON string, or a list with commas; empty means none.

    The forms that KServe's storage initializer takes in these variables
    (python/storage/kserve_storage/kserve_storage.py). Raises PatternInvalid.
    """
    text = text.strip()
    if not text:
        return ()
    if text[0] in '["':
        try:
            value = json.loads(text)
        except ValueError as error:
            raise PatternInvalid(
                f"{name} is no JSON list: {error}",
                field=name,
                hint='write ["*.json", "*.safetensors"] or *.json,*.safetensors',
            ) from error
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise PatternInvalid(f"{name} must hold strings only", field=name)
    else:
        items = text.split(",")
    return tuple(item.strip() for item in items if item.strip())


def gather(options: Sequence[str], variable: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What the command line said; else the environment variable."""
    if options:
        return tuple(options)
    return parse_patterns(environ.get(variable, ""), variable)
