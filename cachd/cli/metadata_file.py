"""What is known of a model, as a JSON file beside its own: written where somebody asks for it, and
with the model, all or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.cli.staging import FILE_MODE, check_relative, translated
from cachd.cli.streaming import write_all
from cachd.errors import InvalidError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from cachd.cli.manifest import Wanted
    from cachd.cli.staging import Staging

DEFAULT_NAME = "cachd-metadata.json"
"""No loader takes it for a model's own configuration, and it is no hidden file."""

_OPTION = "--metadata"
_FIRST = ("uri", "key", "revision", "origin", "allow", "ignore", "model_digest", "metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataFile:
    """``inside``: its path below the destination; else it is at ``outside``."""

    inside: str = ""
    outside: Path = Path()

    def check(self, paths: Iterable[str]) -> None:
        """Raises InvalidError where the model has such a file itself: nothing is written then."""
        if not self.inside:
            return
        for path in paths:
            is_same = path == self.inside
            if is_same or f"{path}/".startswith(f"{self.inside}/") or self._is_below(path):
                raise InvalidError(
                    f"the model has {'a' if is_same else 'its own'} file {path}, where the "
                    "metadata should be written; nothing was written",
                    field=_OPTION,
                    hint="choose another name, such as .cachd/metadata.json",
                )

    def _is_below(self, path: str) -> bool:
        return self.inside.startswith(f"{path}/")

    def refuse_inside(self, why: str) -> None:
        """Raises InvalidError where it is to lie in a destination that can't have it."""
        if self.inside:
            raise InvalidError(
                f"the metadata can't be written to {self.inside} below the destination: {why}",
                field=_OPTION,
                hint="name an absolute path outside, on a volume that this container may write to",
            )

    def commit(self, staging: Staging, data: bytes) -> None:
        """Put the staged files into place, and this one with them."""
        if self.inside:
            with staging.create(self.inside) as fd:
                write_all(fd, memoryview(data))
            staging.commit()
        else:
            with self._prepared(data):
                staging.commit()

    def write(self, data: bytes) -> None:
        """Where there is nothing else to write."""
        with self._prepared(data):
            pass

    @contextlib.contextmanager
    def _prepared(self, data: bytes) -> Iterator[None]:
        """Written before the block, in place after it, gone if that fails."""
        target = self.outside
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
        with translated(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(21, os.strerror(21))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, FILE_MODE)
        try:
            with translated(target):
                try:
                    write_all(fd, memoryview(data))
                    os.fchmod(fd, FILE_MODE)
                finally:
                    os.close(fd)
            yield
            with translated(target):
                temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def wish_of(
    arguments: argparse.Namespace, destination: Path | None, *, has_layout: bool
) -> MetadataFile | None:
    """What the options ask for. ``has_layout``: the model's own files lie deeper in the
    destination. Raises InvalidError."""
    text = arguments.metadata
    if not text:
        return None
    path = Path(DEFAULT_NAME if text.lower() == "true" else text)
    if arguments.no_wait:
        raise InvalidError(
            f"{_OPTION} and --no-wait contradict each other", field=_OPTION, hint="leave one out"
        )
    if destination is None:
        if not path.is_absolute():
            raise InvalidError(
                f"{_OPTION} {path} is below the destination, and there is none",
                field=_OPTION,
                hint="name a destination, or an absolute path",
            )
        return MetadataFile(outside=path)
    if has_layout:
        return MetadataFile(outside=destination / path)
    inside = os.path.relpath(_resolved(destination / path), _resolved(destination))
    if inside == os.curdir:
        raise InvalidError(
            f"{_OPTION} names the destination itself", field=_OPTION, hint="name a file"
        )
    if inside == os.pardir or inside.startswith(f"{os.pardir}/"):
        return MetadataFile(outside=destination / path)
    return MetadataFile(inside=check_relative(inside))


def _resolved(path: Path) -> str:
    """With links in the way followed, but for the last name."""
    return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118


def content(wanted: Wanted) -> bytes:
    """The file's text: facts first, then a line for each file."""
    facts = {name: wanted.facts.get(name) for name in _FIRST}
    head = json.dumps(facts, indent=2).removesuffix("\n}")
    files = ",\n    ".join(file.entry for file in wanted.files)
    return f'{head},\n  "files": [\n    {files}\n  ]\n}}\n'.encode("ascii")


def content_of_local(uri: str, files: Iterable[tuple[str, int]]) -> bytes:
    """The same of a local path, of which no daemon knows more than names and sizes."""
    told = [{"path": path, "size": size, "digests": {}} for path, size in files]
    facts: dict[str, Any] = dict.fromkeys(_FIRST)
    facts.update(uri=uri, origin="file", allow=[], ignore=[], metadata={}, files=told)
    return json.dumps(facts, indent=2).encode("ascii") + b"\n"
