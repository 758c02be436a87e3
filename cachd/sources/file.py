"""``file://`` read by the daemon, below configured roots alone.

A path in a caller's request means the caller's file; the client reads that itself and asks the
daemon nothing. This source is for administrators who keep models on the node.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from cachd.errors import AccessError, ContentError, Forbidden, NotFound, OriginError, UriInvalid
from cachd.model import Auth, Plan, PlannedFile, Validator
from cachd.names import check_tree
from cachd.sources.archives import unpack_of
from cachd.sources.base import Location
from cachd.sources.census import Census
from cachd.sources.patterns import is_wanted
from cachd.sources.revisions import revision_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cachd.credentials import SourceOptions
    from cachd.settings import SourcesSettings
    from cachd.sources.base import SourceContext, SourceRequest


class FileSource:
    """The ``Source`` of local paths."""

    schemes = ("file",)

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """``file:///absolute/path``; percent-encoding is not decoded, as in KServe."""
        host, slash, rest = uri.removeprefix("file://").partition("/")
        if host not in {"", "localhost"}:
            raise UriInvalid(
                "a file:// URI has no host", field="uri", hint="write file:///absolute/path"
            )
        path = os.path.normpath(f"/{rest.strip('/')}")
        if not slash or path == "/":
            raise UriInvalid("the file:// URI names no path", field="uri")
        return Location(
            scheme="file",
            uri=f"file://{path}",
            origin="file://",
            is_default_origin=True,
            options=options,
        )

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """Every regular file below the path. Raises Forbidden outside the roots."""
        return await asyncio.to_thread(_resolve, request, context.settings.file.roots)

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """Whether the path is still below a root, and there."""
        await asyncio.to_thread(_base, request, context.settings.file.roots)

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        return Auth()


def file_url(path: Path) -> str:
    """``file:///…`` with percent-encoding; ``path_of_url`` is its inverse."""
    return "file://" + quote(os.fsencode(path))


def path_of_url(url: str) -> Path:
    """The path that ``file_url`` made a URL of."""
    return Path(os.fsdecode(unquote_to_bytes(url.removeprefix("file://"))))


def etag_of(facts: os.stat_result) -> str:
    """A validator for a file, in the form of a strong ETag."""
    return f'"{facts.st_mtime_ns:x}-{facts.st_size:x}-{facts.st_ino:x}"'


def _base(request: SourceRequest, roots: Sequence[Path]) -> Path:
    given = Path(request.location.uri.removeprefix("file://"))
    try:
        real = given.resolve(strict=True)
    except (OSError, RuntimeError):
        if not _is_below(Path(os.path.realpath(given)), roots):
            raise _refuse(given) from None
        raise NotFound(f"{given} does not exist on this node") from None
    if not _is_below(real, roots):
        raise _refuse(given)
    return real


def _is_below(real: Path, roots: Sequence[Path]) -> bool:
    return any(real.is_relative_to(root.resolve()) for root in roots)


def _refuse(path: Path) -> Forbidden:
    return Forbidden(
        f"the daemon may not read {path}",
        hint="`cachd pull file://…` reads a path of its own; for the daemon an operator lists "
        "directories in sources.file.roots",
    )


def _resolve(request: SourceRequest, roots: Sequence[Path]) -> Plan:
    base = _base(request, roots)
    try:
        if base.is_file():
            files = [_plan(base.name, base)]
        else:
            files = [
                _plan(path, real)
                for path, real in _walk(base, roots)
                if is_wanted(path, request.allow, request.ignore)
            ]
    except PermissionError as error:
        raise AccessError(f"the daemon's user can't read {error.filename}") from error
    except OSError as error:
        raise OriginError(f"can't read {error.filename}: {error.strerror}") from error
    if not files:
        if request.allow or request.ignore:
            raise NotFound(
                f"No model found in {request.location.uri}: nothing there passes the allow and "
                "ignore patterns",
                hint="the patterns left nothing; they match paths below the directory",
            )
        raise NotFound(f"No model found in {request.location.uri}", hint="it holds no files")
    files.sort(key=lambda f: f.path)
    check_tree(f.path for f in files)
    return Plan(
        revision=revision_of(files),
        files=tuple(files),
        unpack=unpack_of(files),
    )


def _walk(base: Path, roots: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """(relative path, real path) of each regular file. Links are followed inside the roots."""
    pending = [("", base, frozenset({base}))]
    census = Census(str(base))
    while pending:
        prefix, directory, above = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                real = Path(entry.path)
                if entry.is_symlink():
                    real = Path(os.path.realpath(real))
                    if not _is_below(real, roots):
                        raise _refuse(Path(entry.path))
                mode = real.stat().st_mode
                if stat.S_ISDIR(mode):
                    if real in above:
                        raise ContentError(f"the link {entry.path} leads in a circle")
                    pending.append((f"{prefix}{entry.name}/", real, above | {real}))
                elif stat.S_ISREG(mode):
                    census.count(f"{prefix}{entry.name}")
                    yield f"{prefix}{entry.name}", real
                else:
                    raise ContentError(f"{entry.path} is neither a file nor a directory")


def _plan(path: str, real: Path) -> PlannedFile:
    facts = real.stat()
    return PlannedFile(
        path=path,
        url=file_url(real),
        size=facts.st_size,
        validator=Validator(etag=etag_of(facts)),
    )
