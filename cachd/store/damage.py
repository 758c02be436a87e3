"""What is wrong with a snapshot on disk, and the marker that says so across restarts.

``corrupt.json`` lies beside the manifest of a snapshot that must not be given to anybody anew. It
goes when every file that it names has been replaced.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cachd.model import BLOCK_SIZE
from cachd.store.decode import parse_object
from cachd.store.fsio import remove_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from cachd.model import Manifest

CORRUPT_NAME = "corrupt.json"

Problem = Literal["blocks", "size", "missing", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDamage:
    """``blocks``: numbers of those that are not as the manifest says; none where a file is only
    too long."""

    path: str
    problem: Problem
    blocks: tuple[int, ...]


def block_ranges(size: int) -> Iterator[tuple[int, int, int]]:
    """Number, offset and length of each block of a file of ``size`` bytes, in order."""
    for offset in range(0, size, BLOCK_SIZE):
        yield offset // BLOCK_SIZE, offset, min(BLOCK_SIZE, size - offset)


def merge_blocks(blocks: Iterable[int], size: int) -> list[tuple[int, int]]:
    """Offset and length of the runs that ``blocks`` of a file of ``size`` bytes make."""
    runs: list[tuple[int, int]] = []
    for number in sorted(set(blocks)):
        offset = number * BLOCK_SIZE
        end = min(offset + BLOCK_SIZE, size)
        if runs and runs[-1][0] + runs[-1][1] == offset:
            runs[-1] = runs[-1][0], end - runs[-1][0]
        else:
            runs.append((offset, end - offset))
    return runs


def merge(
    old: Mapping[str, FileDamage], found: Mapping[str, FileDamage], start: tuple[str, int]
) -> dict[str, FileDamage]:
    """The damage after a look that began at ``start`` (path, block): what was known of what lies
    before it still holds, the rest is as ``found``."""
    path, block = start
    merged = {name: damage for name, damage in old.items() if name < path}
    merged.update(found)
    before = [number for number in old[path].blocks if number < block] if path in old else []
    if before:
        now = found.get(path)
        merged[path] = FileDamage(
            path=path,
            problem=now.problem if now else old[path].problem,
            blocks=tuple(sorted({*before, *(now.blocks if now else ())})),
        )
    return merged


def write_marker(snapshot: Path, damage: Mapping[str, FileDamage]) -> None:
    """Make the marker say ``damage``, durably; no damage, no marker. Raises OSError."""
    if not damage:
        remove_file(snapshot / CORRUPT_NAME)
        return
    data = {
        "format": 1,
        "files": [
            {"path": d.path, "problem": d.problem, "blocks": d.blocks} for d in damage.values()
        ],
    }
    text = json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"
    replace_file(snapshot, CORRUPT_NAME, text, mode=0o644)


def read_marker(snapshot: Path, manifest: Manifest) -> dict[str, FileDamage]:
    """What the marker says; all files where it can't be read, for there was a reason to write it.
    Raises OSError."""
    try:
        data = parse_object((snapshot / CORRUPT_NAME).read_bytes())
        damage = [_parse(item) for item in data["files"]]
        blocks = {file.path: len(file.blocks) for file in manifest.files}
        if not all(0 <= n < blocks[found.path] for found in damage for n in found.blocks):
            raise ValueError("no such block")
        return {found.path: found for found in damage if found.path in blocks}
    except FileNotFoundError:
        return {}
    except (KeyError, TypeError, ValueError, OverflowError):
        return {
            file.path: FileDamage(
                path=file.path, problem="unreadable", blocks=tuple(range(len(file.blocks)))
            )
            for file in manifest.files
        }


def _parse(item: dict[str, Any]) -> FileDamage:
    problem = item["problem"]
    if problem not in ("blocks", "size", "missing", "unreadable"):
        raise ValueError(problem)
    return FileDamage(
        path=str(item["path"]), problem=problem, blocks=tuple(int(n) for n in item["blocks"])
    )
