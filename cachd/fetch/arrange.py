"""A tree made of several fetched files, each by its rule: layers of an image, files that lie under
other names, a git pack. Blocking; runs in a worker process. On any error the caller discards the
tree and does it again, for which what was fetched is still there until the last step.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from cachd.errors import InternalError
from cachd.fetch.place import disk_error
from cachd.names import check_name, check_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cachd.fetch.unpack import UnpackLimits
    from cachd.model import ManifestFile, UnpackRule


def arrange(
    archive: Path,
    tree: Path,
    rules: Sequence[UnpackRule],
    files: Sequence[ManifestFile],
    limits: UnpackLimits,
    grow: Callable[[int], None],
    report: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> list[ManifestFile]:
    """The tree's files, sorted by path. ``archive`` is the directory of what was fetched, ``files``
    are those, with their checksums; the rest as for ``unpack_archive``, which says what is raised.
    """
    fetched = {file.path: file for file in files}
    found: dict[str, ManifestFile] = {}
    for rule in rules:
        if rule.kind == "file":
            check_name(rule.into)
            found[rule.into] = replace(fetched[rule.file], path=rule.into)
        else:
            raise InternalError(f"no rule for {rule.kind} yet")
    check_tree(found)
    # Last, for what can't be linked is moved and not there for another try.
    for rule in rules:
        if rule.kind == "file":
            _take_over(archive / rule.file, tree / rule.into, rule.into)
    return [found[path] for path in sorted(found)]


def _take_over(source: Path, destination: Path, name: str) -> None:
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, destination, follow_symlinks=False)
        except OSError:
            source.rename(destination)
    except OSError as error:
        raise disk_error(error, name) from error
