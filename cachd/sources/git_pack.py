"""Git packs (gitformat-pack of git's documentation), read in bounded memory: objects are inflated
as streams, and what others are made of is kept in memory only while it is small.

Not by a library: those that there are hold whole objects in memory, and a blob may have gigabytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.errors import ContentError
from cachd.sources.git_objects import SIZE_MOST, Content, Inflating, Patching, damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from cachd.sources.git_pkt import PackStream

COMMIT, TREE, BLOB, TAG = 1, 2, 3, 4
_OFS_DELTA, _REF_DELTA = 6, 7
_NAMES = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
_CHUNK = 1024 * 1024
_IN_MEMORY = 32 * 1024 * 1024
"""Bytes of all contents together that are held in memory; the others go to scratch files."""

_DEPTH_MOST = 300
"""Of a chain of deltas: git makes 50, old ones 250 at most."""


@dataclass(slots=True)
class Entry:
    """One object. ``place``: where its deflated bytes begin; ``name``: of deltas known late."""

    kind: int
    size: int
    place: int
    name: bytes = b""


@dataclass(slots=True)
class _Delta:
    entry: Entry
    depth: int = 0
    content: Content | None = None
    todo: list[int] = field(default_factory=list)


class Pack:
    """``count`` is told of inflated bytes and may raise; ``scratch`` opens a file for so many bytes
    that nobody else sees. Raises ArchiveInvalid for whatever is wrong with the pack."""

    def __init__(
        self,
        stream: PackStream,
        *,
        count: Callable[[int], None],
        scratch: Callable[[int], BinaryIO],
        check_number: Callable[[int], None],
    ) -> None:
        self._stream = stream
        self._count = count
        self._scratch = scratch
        self._held = 0
        self.entries: list[Entry] = []
        self.by_name: dict[bytes, int] = {}
        self._children: dict[int, list[int]] = {}
        self._by_ref: dict[bytes, list[int]] = {}
        self._scan(check_number)

    # --- the scan --------------------------------------------------------------------------------

    def _scan(self, check_number: Callable[[int], None]) -> None:
        head = self._read(0, 12)
        number = int.from_bytes(head[8:12], "big")
        if head[:4] != b"PACK" or int.from_bytes(head[4:8], "big") not in (2, 3):
            raise damaged("it is no pack")
        check_number(number)
        at = 12
        places: dict[int, int] = {}
        for index in range(number):
            places[at] = index
            at = self._scan_entry(at, index, places)
        self._check_end(at)

    def _scan_entry(self, at: int, index: int, places: dict[int, int]) -> int:
        start = at
        head = self._read(at, 64, least=1)
        byte, used = head[0], 1
        kind, size, shift = (byte >> 4) & 7, byte & 15, 4
        while byte & 0x80:
            byte, used = _next(head, used)
            size |= (byte & 0x7F) << shift
            shift += 7
        if size > SIZE_MOST:
            raise damaged("an object has an impossible size")
        if kind == _OFS_DELTA:
            byte, used = _next(head, used)
            back = byte & 0x7F
            while byte & 0x80:
                byte, used = _next(head, used)
                back = ((back + 1) << 7) | (byte & 0x7F)
            base = places.get(start - back)
            if base is None or base == index:
                raise damaged("a delta has no base")
            self._children.setdefault(base, []).append(index)
        elif kind == _REF_DELTA:
            name = head[used : used + 20]
            used += 20
            self._by_ref.setdefault(name, []).append(index)
        elif kind not in _NAMES:
            raise damaged(f"it has an object of the kind {kind}")
        entry = Entry(kind, size, start + used)
        self.entries.append(entry)
        inflating = Inflating(self._stream, entry.place, entry.size, self._count)
        digest = None if kind in (_OFS_DELTA, _REF_DELTA) else _hash(kind, size)
        while data := inflating.read(_CHUNK):
            if digest is not None:
                digest.update(data)
        if digest is not None:
            entry.name = digest.digest()
            self.by_name[entry.name] = index
        return inflating.end

    def _check_end(self, at: int) -> None:
        digest = hashlib.sha1(usedforsecurity=False)
        done = 0
        while done < at and (data := self._stream.read_at(done, min(_CHUNK, at - done))):
            digest.update(data)
            done += len(data)
        if self._read(at, 20) != digest.digest() or self._stream.size != at + 20:
            raise damaged("its checksum is wrong")

    def _read(self, at: int, length: int, *, least: int | None = None) -> bytes:
        data = b""
        while len(data) < length and (more := self._stream.read_at(at + len(data), length)):
            data += more
        if len(data) < (length if least is None else least):
            raise damaged("it ends too early")
        return data[:length]

    # --- objects ---------------------------------------------------------------------------------

    def inflate(self, entry: Entry) -> Inflating:
        """The bytes of an object that is no delta, once more."""
        return Inflating(self._stream, entry.place, entry.size, self._count)

    def small(self, kinds: frozenset[int], most: int) -> dict[bytes, tuple[int, bytes]]:
        """All objects of ``kinds`` by name, deltas as well. Raises ContentError if they have more
        than ``most`` bytes."""
        found: dict[bytes, tuple[int, bytes]] = {}
        total = 0
        for entry, kind, content in self.walk(kinds, with_plain=True):
            total += content.size + 64
            if total > most:
                raise ContentError(f"the commit's directories take more than {most} bytes")
            found[entry.name] = (kind, content.read_at(0, content.size))
        return found

    def walk(
        self, kinds: frozenset[int], *, with_plain: bool = False
    ) -> Iterator[tuple[Entry, int, Content]]:
        """Every delta whose object is of ``kinds``, with that kind and its content, which ends with
        the step; ``with_plain``: and the objects that are none."""
        for index, entry in enumerate(self.entries):
            if entry.kind not in kinds:
                continue
            if with_plain or index in self._children or entry.name in self._by_ref:
                yield from self._family(index, with_plain=with_plain)

    def _family(self, root: int, *, with_plain: bool) -> Iterator[tuple[Entry, int, Content]]:
        entry = self.entries[root]
        kind = entry.kind
        stack: list[_Delta] = []
        try:
            content = self._gather(entry.size, self.inflate(entry).read)
            stack.append(_Delta(entry, 0, content, self._below(root, entry)))
            if with_plain:
                yield entry, kind, content
            while stack:
                top = stack[-1]
                if not top.todo:
                    self._drop(stack.pop())
                    continue
                index = top.todo.pop()
                child = self.entries[index]
                if top.depth >= _DEPTH_MOST:
                    raise damaged("its deltas build on one another too often")
                assert top.content is not None
                content = self._apply(child, top.content)
                stack.append(_Delta(child, top.depth + 1, content))
                child.name = self._name(kind, content)
                self.by_name[child.name] = index
                stack[-1].todo = self._below(index, child)
                yield child, kind, content
        finally:
            for left in stack:
                self._drop(left)

    def _below(self, index: int, entry: Entry) -> list[int]:
        # Each is made once: of two objects with one name the first is the base.
        return self._children.get(index, []) + self._by_ref.pop(entry.name, [])

    def _drop(self, delta: _Delta) -> None:
        if delta.content is not None:
            self._held -= delta.content.in_memory
            delta.content.close()

    def _name(self, kind: int, content: Content) -> bytes:
        digest = _hash(kind, content.size)
        for at in range(0, content.size, _CHUNK):
            digest.update(content.read_at(at, _CHUNK))
        return digest.digest()

    def _gather(self, size: int, read: Callable[[int], bytes]) -> Content:
        """What ``read`` gives, ``size`` bytes."""
        if self._held + size <= _IN_MEMORY:
            self._held += size
            try:
                return Content(b"".join(iter(lambda: read(_CHUNK), b"")), None, size)
            except BaseException:
                self._held -= size
                raise
        file = self._scratch(size)
        try:
            while data := read(_CHUNK):
                file.write(data)
            file.flush()
        except BaseException:
            file.close()
            raise
        return Content(b"", file, size)

    def _apply(self, entry: Entry, base: Content) -> Content:
        steps = Patching(Inflating(self._stream, entry.place, entry.size, self._count), base)
        self._count(steps.size)
        return self._gather(steps.size, steps.read)


def _hash(kind: int, size: int) -> hashlib._Hash:
    return hashlib.sha1(_NAMES[kind] + b" %d\0" % size, usedforsecurity=False)


def _next(head: bytes, used: int) -> tuple[int, int]:
    if used >= len(head):
        raise damaged("it ends too early")
    return head[used], used + 1
