"""Names that come from a source (object keys, file names, archive members), judged before any of
them becomes a path. Pure.

What is refused: absolute names, empty, ``.`` and ``..`` components, NUL, components of more than
255 bytes, names of more than 4096, one name twice, and a file that is also a directory of another
(S3 may hold ``a`` and ``a/b``; a file system can't). Everything else is a name on Linux: spaces,
newlines, backslashes. Names that differ only in their Unicode normalisation (``é`` as one code
point or as two) are different names on Linux and stay so. Names that differ only in case are
refused only where the file system can't tell them apart.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from cachd.errors import InvalidError, PathUnsafe

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_COMPONENT_BYTES = 255
MAX_NAME_BYTES = 4096
MAX_DIRECTORIES = 64 * 1024 * 1024
"""Characters of all directories of a tree: a name of 4096 bytes may have 2047, of 2 KiB each."""

MAX_VIEW_NAME = 255
"""Bytes of a view's name, its slashes included."""

_POD = re.compile(r"[0-9a-z][0-9a-z.-]{0,126}")
_SHOWN = 120


def escape(name: str) -> str:
    """``name`` for a message: printable, quoted, clipped to 120 characters."""
    clipped = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
    return ascii(clipped).replace("\\u2026", "…")


def check_name(name: str) -> None:
    """Raises PathUnsafe unless ``name`` can be a file's path below a directory."""
    if not name:
        raise _refuse(name, "it is empty")
    if "\0" in name:
        raise _refuse(name, "it holds a NUL")
    if name.startswith("/"):
        raise _refuse(name, "it is absolute")
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        raise _refuse(name, "it can't be encoded as a file name") from None
    if len(encoded) > MAX_NAME_BYTES:
        raise _refuse(name, f"it has {len(encoded)} bytes, more than {MAX_NAME_BYTES}")
    for component in encoded.split(b"/"):
        if component == b"":
            raise _refuse(name, "a component of it is empty")
        if component in (b".", b".."):
            raise _refuse(name, f"it has the component {component.decode()!r}")
        if len(component) > MAX_COMPONENT_BYTES:
            raise _refuse(
                name,
                f"a component has {len(component)} bytes, more than {MAX_COMPONENT_BYTES}",
            )


def directories_of(names: Iterable[str]) -> set[str]:
    """The directories that files of these ``names`` lie in, at any depth."""
    found: set[str] = set()
    for name in names:
        end = name.rfind("/")
        while end > 0 and name[:end] not in found:
            found.add(name[:end])
            end = name.rfind("/", 0, end)
    return found


def check_tree(names: Iterable[str], *, is_case_sensitive: bool = True) -> None:
    """Raises PathUnsafe unless all ``names`` can be files of one tree together."""
    seen: dict[str, str] = {}
    for name in names:
        check_name(name)
        folded = name if is_case_sensitive else name.casefold()
        other = seen.get(folded)
        if other == name:
            raise _refuse(name, "it occurs twice")
        if other is not None:
            raise _refuse(name, f"this file system takes it for {escape(other)}")
        seen[folded] = name
    directories: dict[str, str] = {}
    held = 0
    for folded, name in seen.items():
        end = folded.rfind("/")
        while end > 0 and folded[:end] not in directories:
            held += end
            if held > MAX_DIRECTORIES:
                raise _refuse(name, "the directories of all names are too many, or too deep")
            directories[folded[:end]] = name
            end = folded.rfind("/", 0, end)
    for folded, name in seen.items():
        if folded in directories:
            raise _refuse(
                name,
                f"it is a file and also the directory of {escape(directories[folded])}",
                hint="a file system can't hold both; leave one out with an ignore pattern",
            )


def _refuse(name: str, why: str, *, hint: str = "") -> PathUnsafe:
    return PathUnsafe(
        f"the name {escape(name)} can't be a path in a snapshot: {why}",
        hint=hint or "rename it at its source, or leave it out with an ignore pattern",
        name=escape(name),
    )


# --- pods and their views ---------------------------------------------------------------------


def is_pod(text: str) -> bool:
    """Whether ``text`` can be a pod's uid: a UUID, or the hash of a static pod's manifest."""
    return _POD.fullmatch(text) is not None


def check_pod(text: str, field: str = "pod") -> str:
    """``text`` itself. Raises InvalidError."""
    if not is_pod(text):
        raise InvalidError(
            f"{field} is no pod's uid: lower-case letters, digits, '-' and '.'",
            field=field,
            hint="the downward API has it: fieldRef metadata.uid",
        )
    return text


def check_view_name(name: str, field: str = "view.name") -> str:
    """``name`` itself; an empty one is the pod's directory. Raises InvalidError."""
    if name:
        try:
            check_name(name)
        except PathUnsafe as error:
            raise InvalidError(error.message, field=field) from None
        if len(os.fsencode(name)) > MAX_VIEW_NAME:
            raise InvalidError(
                f"{field} has more than {MAX_VIEW_NAME} bytes",
                field=field,
                hint="mount the view nearer to where the model is to be",
            )
    return name


def do_overlap(one: str, other: str) -> bool:
    """Whether one of two view names is the other's directory, or its very self."""
    return not one or not other or one == other or _is_below(one, other) or _is_below(other, one)


def _is_below(one: str, other: str) -> bool:
    return one.startswith(other + "/")
