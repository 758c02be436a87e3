"""One object or all below it, where a store lists by prefix."""

from __future__ import annotations

from typing import Any

import pytest

from cachd.errors import AccessError, ContentError, NotFound, OriginError
from cachd.model import PlannedFile
from cachd.sources.prefixes import Listing, check_held, object_or_directory

DENIED = AccessError("denied")
DOWN = OriginError("down")


def file(path: str, size: int | None = 3) -> PlannedFile:
    return PlannedFile(path=path, url=f"https://x/{path}", size=size)


async def say(what: Any) -> Any:
    if isinstance(what, BaseException):
        raise what
    return what


OWN, EMPTY, PACKED, BELOW = file("m"), file("m", 0), file("m", None), file("below")


@pytest.mark.parametrize(
    ("exact", "listed", "expected"),
    [
        (OWN, [BELOW], [OWN]),
        (OWN, DENIED, [OWN]),
        (PACKED, [BELOW], [PACKED]),
        (EMPTY, [BELOW], [BELOW]),
        (EMPTY, [], [EMPTY]),
        (EMPTY, DENIED, [EMPTY]),
        (None, [BELOW], [BELOW]),
        (None, [], []),
        (DENIED, [BELOW], [BELOW]),
        (DENIED, [], DENIED),
        (None, DOWN, DOWN),
        (DENIED, DOWN, DOWN),
    ],
)
async def test_an_object_wins_over_a_directory_unless_it_is_empty(
    exact: Any, listed: Any, expected: Any
) -> None:
    answer = object_or_directory(say(exact), say(listed))
    if isinstance(expected, BaseException):
        with pytest.raises(type(expected)) as caught:
            await answer
        assert caught.value is expected
    else:
        assert await answer == expected


def test_what_is_listed_below_a_prefix() -> None:
    listing = Listing("s3://b/m", "m/", ("*.bin", "*/"), ("old*",), says="https://x lists a key")
    assert listing.path_of("m/a.bin", is_empty=False) == "a.bin"
    assert listing.path_of("m/a.bin", is_empty=True) == "a.bin"
    assert listing.path_of("m/a.txt", is_empty=False) is None
    assert listing.path_of("m/old.bin", is_empty=False) is None
    assert listing.path_of("m/", is_empty=True) is None
    assert listing.path_of("m/d.bin/", is_empty=True) is None
    assert listing.path_of("m/d.bin", is_empty=True, is_folder=True) is None
    # Named as no file can be: left for the check of names, which refuses the model.
    assert listing.path_of("m/d/", is_empty=False) == "d/"
    assert listing.path_of("m/", is_empty=False) == ""
    with pytest.raises(ContentError, match=r"^https://x lists a key outside the asked prefix$"):
        listing.path_of("m-hf/a.bin", is_empty=False)


@pytest.mark.parametrize(
    ("prefix", "path", "asked"),
    [
        ("", "a.bin", ["a.bin"]),
        ("m", "d/a.bin", ["m/d/a.bin"]),
        ("d/m", "m", ["d/m", "d/m/m"]),
    ],
)
async def test_where_a_path_of_the_model_may_be_held(
    prefix: str, path: str, asked: list[str]
) -> None:
    seen: list[str] = []

    async def look(name: str) -> str | None:
        seen.append(name)
        return name if name == asked[-1] and is_held else None

    is_held = True
    await check_held("s3://b", prefix, path, look)
    assert seen == asked
    is_held = False
    with pytest.raises(NotFound, match=rf"^{path} is no longer in s3://b$"):
        await check_held("s3://b", prefix, path, look)
