"""What a commit's tree holds: files, symbolic links, and pointers to Git LFS. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachd.errors import ContentError, NotFound
from cachd.names import check_name, escape
from cachd.sources.git_objects import damaged
from cachd.sources.git_pack import COMMIT, TREE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Objects = Mapping[bytes, tuple[int, bytes]]
    """Commits and trees by name."""

POINTER_MOST = 1024
"""Bytes that a pointer has less than (git-lfs, docs/spec.md)."""

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (\d{1,19})\n?"
)
_DEPTH_MOST = 256
_ENTRIES_MOST = 2_000_000
_FOLDER, _LINK, _MODULE = 0o040000, 0o120000, 0o160000


@dataclass(frozen=True, slots=True)
class Leaf:
    """A file or a symbolic link of the tree; ``path`` is below the directory that was named.
    ``is_named``: it was named itself."""

    path: str
    name: bytes
    is_link: bool
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Pointer:
    oid: str
    size: int


def pointer_of(data: bytes) -> Pointer | None:
    """What a file that is a pointer points to. Extensions transform the bytes: with one it is
    taken as a plain file."""
    match = _POINTER.fullmatch(data) if len(data) < POINTER_MOST else None
    if match is None or b"\next-" in data:
        return None
    return Pointer(match[1].decode(), int(match[2]))


def leaves_of(objects: Objects, commit: str, path: str) -> Iterator[Leaf]:
    """The files and links below ``path``, "" for all; or the one file that it is. Submodules are
    left out. Raises NotFound, ContentError, PathUnsafe."""
    at, mode = _tree_of(objects, commit), _FOLDER
    parts = path.split("/") if path else []
    for number, part in enumerate(parts):
        found = dict(_entries(objects, at)) if _kind(mode) == _FOLDER else {}
        if part not in found:
            shown = "/".join(parts[: number + 1])
            raise NotFound(
                f"there is no {escape(shown)} in the commit {commit[:12]}", hint="check the path"
            )
        mode, at = found[part]
    if _kind(mode) == _MODULE:
        raise NotFound(
            f"{escape(path)} is a submodule, a repository of its own", hint="name that one's URL"
        )
    if _kind(mode) != _FOLDER:
        yield Leaf(parts[-1], at, _kind(mode) == _LINK, is_named=True)
        return
    stack, seen = [("", at)], 0
    while stack:
        folder, tree = stack.pop()
        if folder.count("/") > _DEPTH_MOST:
            raise ContentError(
                f"the commit's directories are more than {_DEPTH_MOST} deep",
                hint="name a directory: repo.git@ref/directory",
            )
        for base, (kind, name) in _entries(objects, tree):
            below = folder + base
            seen += 1
            if seen > _ENTRIES_MOST:
                # A tree may be in itself many times over, and hold no file at all.
                raise ContentError(f"the commit holds more than {_ENTRIES_MOST} names")
            if _kind(kind) == _FOLDER:
                stack.append((below + "/", name))
            elif _kind(kind) != _MODULE:
                check_name(below)
                yield Leaf(below, name, _kind(kind) == _LINK)


def resolve_link(path: str, target: str) -> str | None:
    """Where a link at ``path`` leads in the tree, lexically; None for out of it."""
    if not target or target.startswith("/"):
        return None
    parts = path.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _kind(mode: int) -> int:
    return mode & 0o170000


def _tree_of(objects: Objects, commit: str) -> bytes:
    kind, data = objects.get(bytes.fromhex(commit), (0, b""))
    match = re.match(rb"tree ([0-9a-f]{40})\n", data)
    if kind != COMMIT or match is None:
        raise damaged("the commit isn't in it")
    return bytes.fromhex(match[1].decode())


def _entries(objects: Objects, tree: bytes) -> Iterator[tuple[str, tuple[int, bytes]]]:
    kind, data = objects.get(tree, (0, b""))
    if kind != TREE:
        raise damaged("a directory isn't in it")
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        end = data.find(b"\0", space)
        if space < 0 or end < 0 or end + 21 > len(data):
            raise damaged("a directory can't be read")
        try:
            mode = int(data[at:space], 8)
            name = data[space + 1 : end].decode()
        except ValueError:
            raise ContentError(
                "a name in the commit is not UTF-8",
                hint="name a directory without it: @ref/directory",
            ) from None
        yield name, (mode, data[end + 1 : end + 21])
        at = end + 21
