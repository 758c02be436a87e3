"""What a path means where names are listed by prefix: one object, or all that lies below it.

A prefix is a directory: ``m`` takes ``m/…``, never ``m-hf/…`` (KServe takes both). An object whose
name is the whole path wins over a directory of the same name, unless it is empty. Directory markers
(names that end in ``/``, empty) are no files; other empty objects are, KServe skips them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cachd.errors import ContentError, NotFound
from cachd.model import PlannedFile
from cachd.sources.census import Census
from cachd.sources.patterns import is_wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


async def object_or_directory(
    exact: Awaitable[PlannedFile | None], below: Awaitable[list[PlannedFile]]
) -> list[PlannedFile]:
    """Both questions at once, for either may be refused to a caller who may ask the other.

    Raises what ``below`` raises, and what ``exact`` does where nothing lies below.
    """
    found, listed = await asyncio.gather(exact, below, return_exceptions=True)
    has_listed = isinstance(listed, list) and bool(listed)
    if isinstance(found, PlannedFile) and (found.size != 0 or not has_listed):
        return [found]
    if isinstance(listed, BaseException):
        raise listed
    if not listed and isinstance(found, BaseException):
        raise found
    return listed


def no_model(uri: str, *, is_filtered: bool, what: str = "its objects lie") -> NotFound:
    """``is_filtered``: patterns went over what is there. ``what`` a prefix holds, for the hint."""
    if is_filtered:
        return NotFound(
            f"No model found in {uri}: nothing there passes the allow and ignore patterns",
            hint="patterns match paths below the URI, such as '*.safetensors'; without them the "
            "same error means that the path is wrong",
        )
    return NotFound(
        f"No model found in {uri}",
        hint=f"check the path; a prefix is a directory, and {what} below it",
    )


async def check_held(
    uri: str, prefix: str, path: str, look: Callable[[str], Awaitable[object | None]]
) -> None:
    """``look`` at the object at ``path`` of the model; raises what that does, and NotFound where it
    finds None. The path of a model that is one object is that object's base name."""
    names = [f"{prefix}/{path}" if prefix else path]
    if prefix and prefix.rsplit("/", 1)[-1] == path:
        names.insert(0, prefix)
    for name in names:
        if await look(name) is not None:
            return
    raise NotFound(f"{path} is no longer in {uri}")


class Listing:
    """Which of the names that a store lists for ``prefix`` are files of the model ``uri``, counted.

    ``says``: the store and its word for one of them, for messages: "https://… lists a key".
    """

    def __init__(
        self, uri: str, prefix: str, allow: Sequence[str], ignore: Sequence[str], *, says: str
    ) -> None:
        self._prefix = prefix
        self._allow = allow
        self._ignore = ignore
        self._says = says
        self._census = Census(uri)

    def path_of(self, name: str, *, is_empty: bool, is_folder: bool = False) -> str | None:
        """The file's path in the model; None for what is none of its files. Raises ContentError."""
        if not name.startswith(self._prefix):
            raise ContentError(f"{self._says} outside the asked prefix")
        path = name[len(self._prefix) :]
        if is_folder or (name.endswith("/") and is_empty):
            return None
        if path and not is_wanted(path, self._allow, self._ignore):
            return None
        self._census.count(path)
        return path
