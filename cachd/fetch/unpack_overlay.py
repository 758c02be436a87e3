"""A tree made of several archives, one after the other: each below a directory of its own if need
be, without a prefix, and as a layer over what came before where it is one of an image.

Layers are as in the OCI image specification, layer.md: a member replaces what earlier layers have
of its name, ``.wh.NAME`` takes NAME of earlier layers away, ``.wh..wh..opq`` all that they have in
its directory; neither concerns its own layer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.errors import ArchiveInvalid
from cachd.fetch.unpack_stream import damaged
from cachd.fetch.unpack_tree import CHUNK, Tree
from cachd.names import check_name, escape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cachd.fetch.unpack_tree import UnpackLimits

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_INTERNAL = ".wh..wh."
"""What aufs keeps for itself: no whiteout, and no file."""

_NOTED = 20
"""Top-level names that are kept for a message."""


@dataclass(slots=True)
class _Folder:
    """``names``: what is in it. ``since``: no earlier layer has anything in it."""

    since: int
    names: dict[str, None] = field(default_factory=dict)


class Overlay(Tree):
    """A ``Tree`` for many archives. Call ``begin`` before the members of each."""

    def __init__(
        self,
        root: Path,
        packed: int | None,
        limits: UnpackLimits,
        grow: Callable[[int], None],
        report: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """``packed``: bytes of all archives."""
        super().__init__(root, "", packed, limits, grow, report, cancelled)
        self._into = ""
        self._strip = ""
        self._is_layer = False
        self._layer = 0
        self._born: dict[str, int] = {}
        self._folders: dict[str, _Folder] = {"": _Folder(0)}
        self._outside: dict[str, None] = {}

    def begin(self, name: str, *, into: str = "", strip: str = "", is_overlay: bool) -> None:
        """The next archive, called ``name`` in messages. Raises PathUnsafe."""
        self._archive_name = name
        self._into = into.strip("/")
        if self._into:
            check_name(self._into)
        self._strip = strip.strip("/")
        self._is_layer = is_overlay
        self._layer += 1

    @property
    def left_out(self) -> tuple[str, ...]:
        """The top-level names of members that weren't below ``strip``, as far as one tells them."""
        return tuple(self._outside)

    # --- members ---------------------------------------------------------------------------------

    def add_file(
        self, name: str, size: int, *, is_executable: bool, read: Callable[[int], bytes]
    ) -> None:
        folder, _, base = name.rpartition("/")
        if self._is_layer and base.startswith(_WHITEOUT):
            self._skip(size, read)
            self._white_out(folder, base)
            return
        path = self._path(name)
        if path is None:
            self._skip(size, read)
            return
        self._make_way(path)
        super().add_file(path, size, is_executable=is_executable, read=read)
        self._enter_name(path)

    def add_directory(self, name: str) -> None:
        path = self._path(name.rstrip("/") if name.strip("/") else "")
        if path is None:
            return
        super().add_directory(path)
        if path not in self._folders:
            self._make_way(path)

    def add_hard_link(self, name: str, target: str) -> None:
        """In a layer, to what ``target``, a path of it or of an earlier one, is just now."""
        path = self._path(name)
        if path is None:
            return
        end = self._path(self._resolve("", target.lstrip("/") if self._is_layer else target, name))
        if not end or end == path:
            raise self._bad_link(name)
        path = self.safe_name(path)
        self._make_way(path)
        if not self._is_layer or end in self._links:
            self._add_link(path, self._links[end] if self._is_layer else end)
        elif end in self._files:
            self._make_link(path, end)
        else:
            raise self._bad_link(name)
        self._enter_name(path)

    def add_symbolic_link(self, name: str, target: str) -> None:
        path = self._path(name)
        if path is None:
            return
        end = self._path(self._resolve(name.rpartition("/")[0], target, name))
        if not end:
            raise self._bad_link(name)
        self._make_way(path)
        self._add_link(path, end)
        self._enter_name(path)

    def add_other(self, name: str) -> None:
        if self._path(name) is not None:
            super().add_other(name)

    # --- names -----------------------------------------------------------------------------------

    def _path(self, name: str) -> str | None:
        """Where a member goes; None for one that isn't below ``strip``. Not yet judged."""
        name = _plain(name)
        if self._strip:
            # Tools that make images write absolute names now and then, and mean the same.
            bare = name.lstrip("/")
            if bare == self._strip:
                name = ""
            elif bare.startswith(f"{self._strip}/"):
                name = _plain(bare[len(self._strip) + 1 :])
            else:
                self._note(bare)
                return None
        if not self._into:
            return name
        if name.startswith("/"):
            check_name(name)
        return f"{self._into}/{name}" if name else self._into

    def _note(self, name: str) -> None:
        top = name.partition("/")[0]
        if top and len(self._outside) < _NOTED:
            self._outside[top] = None

    def _enter_name(self, path: str) -> None:
        """``path`` is there now, and so are its directories."""
        self._born[path] = self._layer
        while path:
            parent, _, base = path.rpartition("/")
            folder = self._folders.get(parent)
            if folder is None:
                folder = self._folders[parent] = _Folder(self._layer)
            elif base in folder.names:
                return
            folder.names[base] = None
            path = parent

    def _make_way(self, path: str) -> None:
        """Take away what earlier layers have at ``path``, and files where it needs a directory.
        Raises ArchiveInvalid for what is of this very layer."""
        if not self._is_layer:
            return
        self._take_away(path)
        if path in self._folders or path in self._born:
            raise self._twice(path)
        self._make_parents(path)

    def _make_parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        while parent and parent not in self._folders:
            if parent not in self._links:
                self._take_away(parent)
            if parent in self._born:
                kind = "the symbolic link" if parent in self._links else "the file"
                raise ArchiveInvalid(
                    f"{self._archive_name}: {escape(path)} lies below {kind} {escape(parent)}"
                )
            parent = parent.rpartition("/")[0]

    # --- whiteouts -------------------------------------------------------------------------------

    def _white_out(self, folder: str, base: str) -> None:
        if base != _OPAQUE and base.startswith(_INTERNAL):
            return
        folder = _plain(folder).lstrip("/")
        gone = folder
        if base != _OPAQUE:
            check_name(base[len(_WHITEOUT) :])
            gone = f"{folder}/{base[len(_WHITEOUT) :]}".lstrip("/")
        if not gone or f"{self._strip}/".startswith(f"{gone}/"):
            self._clear(self._into)
            return
        path = self._path(gone)
        if path is not None:
            check_name(path)
            self._take_away(path)
            self._make_parents(path)

    def _take_away(self, path: str) -> None:
        """What earlier layers have at ``path``, with the directories that this empties."""
        if path in self._folders:
            self._clear(path)
        elif path in self._born and self._born[path] != self._layer:
            self._remove(path)
            self._prune(path.rpartition("/")[0])

    def _clear(self, top: str) -> None:
        """What earlier layers have in the directory ``top``, with the directories that this
        empties. One that holds nothing of theirs isn't looked at again, so that no order of
        whiteouts takes long."""
        pending = [top] if top in self._folders else []
        visited = []
        while pending:
            path = pending.pop()
            folder = self._folders[path]
            if folder.since == self._layer:
                continue
            folder.since = self._layer
            visited.append(path)
            for base in list(folder.names):
                below = f"{path}/{base}" if path else base
                if below in self._folders:
                    pending.append(below)
                elif self._born[below] != self._layer:
                    self._remove(below)
        for path in reversed(visited):
            self._prune(path)

    def _remove(self, path: str) -> None:
        del self._born[path]
        self._forget(path)
        if self._links.pop(path, None) is None:
            del self._files[path]
            self._delete(path, os.unlink)

    def _prune(self, path: str) -> None:
        """``path`` and the directories above it, as long as nothing is in them."""
        while path and path in self._folders and not self._folders[path].names:
            del self._folders[path]
            self._forget(path)
            self._close_folder()
            self._delete(path, os.rmdir)
            path = path.rpartition("/")[0]

    def _forget(self, path: str) -> None:
        parent, _, base = path.rpartition("/")
        self._folders[parent].names.pop(base, None)

    def _delete(self, path: str, act: Callable[..., None]) -> None:
        try:
            act(path.rpartition("/")[2], dir_fd=self._enter(path))
        except FileNotFoundError:
            # A directory of links alone isn't made before the end.
            pass
        except OSError as error:
            raise self._failed(error) from error

    def _skip(self, size: int, read: Callable[[int], bytes]) -> None:
        while size:
            data = read(min(CHUNK, size))
            if not data:
                raise damaged(self._archive_name, "it ends in the middle of a member")
            size -= len(data)


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name == "." else name
