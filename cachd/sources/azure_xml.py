"""Azure Storage's XML: lists of blobs and files, codes of errors. No document type is read, and so
no entity is ever declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote
from xml.parsers import expat

_ITEMS = {"Blob", "File", "Directory"}
_DEPTH_MOST = 16


class _DocumentType(Exception):
    pass


@dataclass
class Page:
    """``items``: what each is, and its texts by their element's name (``meta.`` before those of
    metadata). ``marker`` of the next page, "" for the last."""

    items: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    marker: str = ""
    code: str = ""


def parse(body: bytes) -> Page:
    """A listing, or an error. Raises ValueError for what is none."""
    page = Page()
    path: list[str] = []
    text: list[str] = []
    current: dict[str, str] = {}
    is_encoded = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal current, is_encoded
        path.append(name)
        text.clear()
        if len(path) > _DEPTH_MOST:
            raise ValueError("too deep")
        if name in _ITEMS:
            current = {}
            page.items.append((name, current))
        elif name == "Name":
            is_encoded = attributes.get("Encoded", "").lower() == "true"

    def end(name: str) -> None:
        path.pop()
        value = "".join(text)
        text.clear()
        parent = path[-1] if path else ""
        if name == "Name" and parent in _ITEMS:
            # Characters that XML can't hold.
            current[name] = unquote(value) if is_encoded else value
        elif parent == "Metadata":
            current[f"meta.{name.lower()}"] = value
        elif parent == "Properties" or parent in _ITEMS:
            current[name] = value
        elif name == "NextMarker":
            page.marker = value
        elif name == "Code" and path == ["Error"]:
            page.code = value

    def refuse(*_: Any) -> None:
        raise _DocumentType

    # Whatever it says: Azure's is UTF-8, and other names may be no encoding at all.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _DocumentType) as error:
        raise ValueError(f"no XML of Azure Storage: {type(error).__name__}") from None
    return page
