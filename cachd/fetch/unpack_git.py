"""The answer of a git server becomes files: those of one commit's tree, or of a directory of it.

Every object is found by its name, which is the sha1 of its bytes, from the commit down; so what is
written is what the commit says. Blobs are inflated as streams. What others are deltas of is kept in
memory while it is small, and else beside the answer, in files without a name.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from cachd.errors import ContentError
from cachd.sources.git_objects import damaged
from cachd.sources.git_pack import BLOB, COMMIT, TREE, Pack
from cachd.sources.git_pkt import PackStream
from cachd.sources.git_tree import leaves_of
from cachd.sources.patterns import is_wanted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, BinaryIO

    from cachd.fetch.unpack_tree import Tree
    from cachd.model import UnpackRule

_TREES_MOST = 256 * 1024 * 1024
_LINK_MOST = 4096
_Places = dict[bytes, tuple[list[str], list[str]]]
"""By a blob's name: the files that it is, and the links that lead where it says."""


def unpack_git(path: Path, target: Tree, rule: UnpackRule) -> None:
    """``rule.detail``: commit, path, allow, ignore, and ``skip``, which others provide."""

    def scratch(size: int) -> BinaryIO:
        target.take_scratch(size)
        return tempfile.TemporaryFile(dir=path.parent)

    with path.open("rb") as file:
        pack = Pack(
            PackStream(file),
            count=target.count_inflated,
            scratch=scratch,
            check_number=target.check_members,
        )
        places = _places(pack, rule.detail)
        for entry in pack.entries:
            if entry.kind == BLOB and entry.name in places:
                source = pack.inflate(entry)
                _write(target, *places.pop(entry.name), entry.size, source.read)
        if places:
            for entry, _, content in pack.walk(frozenset({BLOB})):
                if entry.name in places:
                    _write(target, *places.pop(entry.name), content.size, _reading(content.read_at))
    if places:
        raise damaged(f"{len(places)} files of the commit aren't in it")


def _places(pack: Pack, detail: dict[str, Any]) -> _Places:
    places: _Places = {}
    objects = pack.small(frozenset({COMMIT, TREE}), _TREES_MOST)
    skip = set(detail["skip"])
    for leaf in leaves_of(objects, detail["commit"], detail["path"]):
        if leaf.path in skip or not is_wanted(leaf.path, detail["allow"], detail["ignore"]):
            continue
        files, links = places.setdefault(leaf.name, ([], []))
        (links if leaf.is_link else files).append(leaf.path)
    return places


def _write(
    target: Tree, files: list[str], links: list[str], size: int, read: Callable[[int], bytes]
) -> None:
    for _ in (*files, *links):
        target.count_member()
    if links:
        if size > _LINK_MOST:
            raise ContentError(f"the symbolic link {links[0]} has an impossible target")
        data = b"".join(iter(lambda: read(_LINK_MOST), b""))
        for link in links:
            target.add_symbolic_link(link, data.decode("utf-8", "surrogateescape"))
        read = _reading(lambda at, length: data[at : at + length])
    if files:
        target.add_file(files[0], size, is_executable=False, read=read)
        for other in files[1:]:
            target.add_hard_link(other, files[0])


def _reading(read_at: Callable[[int, int], bytes]) -> Callable[[int], bytes]:
    at = 0

    def read(length: int) -> bytes:
        nonlocal at
        data = read_at(at, length)
        at += len(data)
        return data

    return read
