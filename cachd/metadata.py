"""What is told of a model besides its bytes: one flat object of texts, from its source and from the
registry that named it. For people and for dashboards; nothing is decided by it. Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

METADATA: Final = {
    "name": "what its registry, or its hub, calls it",
    "version": "its version's name there",
    "author": "who made that version",
    "description": "one text of theirs",
    "format": "the model's format, such as onnx",
    "format_version": "the format's version",
    "registry": "the registry that named it: its name in the configuration, or its URL",
    "source": "the URI that the registry gave for it",
    "commit": "the source's own name for this state: a git commit, an image's digest",
    "created": "when that version was made, RFC 3339",
    "state": "the registry's word for it, such as LIVE",
    "endpoint": "the endpoint that it came from",
    "bucket": "the bucket",
    "region": "the bucket's region",
    "archive": "the archive that it was unpacked from",
    "archive_sha256": "that archive's digest",
}
"""The names that cachd gives. Besides: ``property.NAME``, as the registry's users named them."""

PROPERTY: Final = "property."
MAX_TEXT: Final = 4096
"""Characters of one value."""

MAX_PROPERTIES: Final = 100

_YEAR_10000: Final = 253_402_300_800_000


def tidy(found: Mapping[str, str | None]) -> dict[str, str]:
    """What may be kept of ``found``: known names and properties, cut to size, without empty ones.
    Raises nothing: a registry's users write what they like."""
    kept: dict[str, str] = {}
    properties = 0
    for name, value in found.items():
        if not value or not isinstance(value, str):
            continue
        if name.startswith(PROPERTY):
            properties += 1
            if properties > MAX_PROPERTIES:
                continue
        elif name not in METADATA:
            continue
        kept[_plain(name)[:256]] = _plain(value)[:MAX_TEXT]
    return kept


def moment(milliseconds: Any) -> str | None:
    """A registry's time (milliseconds since the epoch, a number or its digits) by RFC 3339; None
    for what is no time."""
    text = str(milliseconds or "")
    if (
        not (text.isascii() and text.isdigit() and len(text) < 16)
        or not 0 < int(text) < _YEAR_10000
    ):
        return None
    return datetime.fromtimestamp(int(text) / 1000, UTC).isoformat(timespec="seconds")


def _plain(text: str) -> str:
    """Characters that a terminal would obey, and halves of characters, are shown as marks."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
