"""What a caller says of the bytes that it will take, and whether bytes are that. Pure.

A pin is a digest of one file (``sha256:…``; of an archive, the archive itself or a member), or the
*model digest*: sha256 over a line ``SHA256  PATH`` for each file, in the order of the paths' bytes.
That is what ``sha256sum`` prints, so that a shell computes it::

    find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cachd.errors import DigestMismatch
from cachd.fetch import crc
from cachd.names import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cachd.model import Digest, ManifestFile

MODEL_ALGORITHM = "sha256"

Sums: TypeAlias = dict[str, dict[str, str]]
"""Digests by path and algorithm."""

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestPins:
    """``files``: (path, digest). ``model``: the model digest, a sha256."""

    files: tuple[tuple[str, Digest], ...] = ()
    model: Digest | None = None

    def __bool__(self) -> bool:
        return bool(self.files) or self.model is not None

    def algorithms(self, path: str) -> set[str]:
        """Those that ``path`` is looked at with."""
        found = {digest.algorithm for pinned, digest in self.files if pinned == path}
        return found if self.model is None else found | {MODEL_ALGORITHM}


def model_digest(sums: Mapping[str, str]) -> str:
    """The model digest of files whose sha256 are given by path."""
    total = hashlib.sha256()
    for line in model_lines(sums):
        total.update(line)
    return total.hexdigest()


def model_lines(sums: Mapping[str, str]) -> Iterable[bytes]:
    """The lines that ``sha256sum`` prints; it escapes a few characters, and says so in front."""
    for path in sorted(sums, key=os.fsencode):
        shown = "".join(_ESCAPES.get(char, char) for char in path)
        mark = "\\" if shown != path else ""
        yield os.fsencode(f"{mark}{sums[path]}  {shown}\n")


def needed(pins: Iterable[DigestPins], files: Sequence[ManifestFile]) -> dict[str, set[str]]:
    """The algorithms that must be known to judge ``pins``, by path of ``files``."""
    wanted: dict[str, set[str]] = {}
    paths = {file.path for file in files}
    for one in pins:
        if one.model is not None:
            for path in paths:
                wanted.setdefault(path, set()).add(MODEL_ALGORITHM)
        for path, digest in one.files:
            if path in paths:
                wanted.setdefault(path, set()).add(digest.algorithm)
    return wanted


def known(file: ManifestFile, algorithms: Iterable[str]) -> dict[str, str]:
    """Those of ``algorithms`` that need no reading: what was verified, and crc64nvme, which the
    blocks add up to."""
    found = {d.algorithm: d.value for d in file.digests}
    if "crc64nvme" in algorithms and file.size:
        found["crc64nvme"] = crc.combine(file.blocks, file.size)
    if not file.size:
        found.update({name: crc.sum_empty(name) for name in algorithms})
    return {name: found[name] for name in algorithms if name in found}


def judge(pins: DigestPins, sums: Sums, paths: Iterable[str]) -> DigestMismatch | None:
    """The error for the first pin that the bytes contradict. ``sums`` has what ``needed`` says, and
    the sha256 of an archive that was unpacked; ``paths`` are the model's files."""
    for path, digest in pins.files:
        seen = sums.get(path, {}).get(digest.algorithm)
        if seen is None and path in sums:
            return _unknowable(path, digest)
        if seen != digest.value:
            return _mismatch(path, str(digest), f"{digest.algorithm}:{seen}" if seen else None)
    if pins.model is not None:
        seen = model_digest({path: sums[path][MODEL_ALGORITHM] for path in paths})
        if seen != pins.model.value:
            return _mismatch(None, str(pins.model), f"{MODEL_ALGORITHM}:{seen}")
    return None


def _unknowable(path: str, digest: Digest) -> DigestMismatch:
    return DigestMismatch(
        f"the request pins {escape(path)} to {digest}, but of an archive only the sha256 is kept",
        hint="pin the archive's sha256, or the files that it holds",
        field="digests",
        path=path,
        expected=str(digest),
        seen=None,
    )


def _mismatch(path: str | None, expected: str, seen: str | None) -> DigestMismatch:
    what = "the model digest" if path is None else f"the file {escape(path)}"
    if path is not None and seen is None:
        text = f"the request pins {what} to {expected}, but the model has no such file"
    elif path is None:
        text = f"{what} is {seen}, the request pins {expected}"
    else:
        text = f"{what} has {seen}, the request pins {expected}"
    return DigestMismatch(
        text,
        hint="the source holds something else than was pinned: correct the pin, or the source",
        field="digests" if path is not None else "model_digest",
        path=path,
        expected=expected,
        seen=seen,
    )
