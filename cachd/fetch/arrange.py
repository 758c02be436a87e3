"""A tree made of several fetched files, each by its rule: layers of an image, files that lie under
other names, a git pack. Blocking; runs in a worker process. On any error the caller discards the
tree and does it again, for which what was fetched is still there until the last step.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from cachd.errors import NotFound
from cachd.fetch.place import disk_error
from cachd.fetch.unpack_overlay import Overlay
from cachd.fetch.unpack_stream import Stream
from cachd.fetch.unpack_tar import unpack_tar
from cachd.fetch.unpack_zip import unpack_zip
from cachd.names import check_tree, escape

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
    ``limits`` are for everything together. NotFound if there is no file in the end.
    """
    fetched = {file.path: file for file in files}
    kept = [rule for rule in rules if rule.kind == "file"]
    packed = [rule for rule in rules if rule.kind != "file"]
    found = [replace(fetched[rule.file], path=rule.into) for rule in kept]
    left_out: tuple[str, ...] = ()
    if packed:
        size = sum(fetched[name].size for name in {rule.file for rule in packed})
        with Overlay(tree, size, limits, grow, report, cancelled) as target:
            for rule in packed:
                target.begin(
                    rule.file, into=rule.into, strip=rule.strip, is_overlay=rule.is_overlay
                )
                try:
                    _take_apart(rule, archive / rule.file, target)
                except OSError as error:
                    raise disk_error(error, rule.file) from error
            found += target.finish()
            left_out = target.left_out
    check_tree(file.path for file in found)
    if not found:
        raise _nothing_found(packed, left_out)
    last = {rule.file: rule for rule in kept}
    moves = []
    for rule in kept:
        try:
            if _take_over(archive / rule.file, _place(tree, rule)):
                continue
            if rule is last[rule.file]:
                moves.append(rule)
            else:
                grow(fetched[rule.file].size)
                shutil.copyfile(archive / rule.file, tree / rule.into)
        except OSError as error:
            raise disk_error(error, rule.into) from error
    # When no room is wanted any more, for what is moved is not there for another try.
    for rule in moves:
        try:
            (archive / rule.file).rename(tree / rule.into)
        except OSError as error:
            raise disk_error(error, rule.into) from error
    return sorted(found, key=lambda file: file.path)


def _take_apart(rule: UnpackRule, path: Path, target: Overlay) -> None:
    """The members of one fetched file into the tree."""
    if rule.kind == "git":
        from cachd.fetch.unpack_git import unpack_git  # noqa: PLC0415  (few models need it)

        unpack_git(path, target, rule)
        return
    with path.open("rb") as file:
        if rule.kind == "zip":
            unpack_zip(file, target, rule.file)
        else:
            stream = Stream(file, rule.file, target.count_inflated)
            unpack_tar(stream, target, rule.file, may_be_empty=rule.is_overlay)


def _place(tree: Path, rule: UnpackRule) -> Path:
    place = tree / rule.into
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _take_over(source: Path, destination: Path) -> bool:
    """A fetched file under its own name as well, without copying, where files can have two."""
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        return False
    return True


def _nothing_found(rules: Sequence[UnpackRule], left_out: Sequence[str]) -> NotFound:
    wanted = next((rule.strip for rule in rules if rule.strip), "")
    if not wanted:
        return NotFound("No model found: what was fetched holds no file")
    tops = ", ".join(escape(name) for name in sorted(left_out)) or "nothing at all"
    return NotFound(
        f"No model found: there is no file below {wanted}/; at the top there is {tops}",
        hint=f"put the model's files into the directory {wanted}",
    )
