"""Bodies and query strings, read strictly: every name is known, every value has its type.

Bodies hold credentials. A message says which field is wrong and what it should be; it never says
what was there, and no parser's exception is chained to it.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web

from cachd.errors import DeadlineExceeded, InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_BODY = 1024 * 1024
"""Bytes of a JSON body."""

BODY_TIMEOUT = 60.0
"""Seconds in which a JSON body must have come."""

_NAME_LENGTH = 64


async def read_json(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """The body as a JSON object; an empty one is ``{}`` where it is ``optional``.

    Raises InvalidError, DeadlineExceeded, HTTPRequestEntityTooLarge (over 1 MiB).
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            data = await _read(request)
    except TimeoutError:
        raise DeadlineExceeded(f"the body did not come within {BODY_TIMEOUT:g} s") from None
    if optional and not data.strip():
        return {}
    return parse_json(data)


async def _read(request: web.Request) -> bytes:
    if (request.content_length or 0) > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY, request.content_length or 0)
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, len(data))
    return bytes(data)


def parse_json(data: bytes) -> dict[str, Any]:
    """Strict JSON: UTF-8, an object, no name twice, no NaN. Raises InvalidError."""
    problem = ""
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        problem = "the body is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"the body is no JSON (line {error.lineno}, column {error.colno})"
    except (ValueError, RecursionError):
        problem = "the body is no JSON that can be read"
    else:
        if not isinstance(value, dict):
            problem = "the body must be a JSON object"
        elif b"\\u" in data and not _is_encodable(value):
            problem = "a text of the body holds half of a surrogate pair, which is no character"
        else:
            return value
    raise InvalidError(problem, hint="GET /openapi.json describes what this route takes")


def _is_encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidError(f"the field {clip(twice)} is there twice", field=clip(twice))
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def clip(name: str) -> str:
    """A name from outside, fit for a message."""
    text = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
    return text if text.isprintable() else ascii(text)[1:-1]


class Fields:
    """An object's fields, taken one by one; ``finish`` refuses what nobody took."""

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._data = data
        self._path = path
        self._taken: list[str] = []

    def name(self, field: str) -> str:
        return f"{self._path}.{field}" if self._path else field

    def fail(self, field: str, what: str, hint: str = "") -> InvalidError:
        """The error that says what ``field`` must be."""
        where = self.name(field)
        return InvalidError(f"{where} {what}", field=where, hint=hint)

    def _take(self, field: str) -> Any:
        self._taken.append(field)
        return self._data.get(field)

    def has(self, field: str) -> bool:
        return self._data.get(field) is not None

    def text(self, field: str, *, limit: int = 4096, lines: bool = False) -> str | None:
        """A string of at most ``limit`` characters, without control characters unless ``lines``.
        An empty one is none."""
        value = self._take(field)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.fail(field, "must be a string")
        if len(value) > limit:
            raise self.fail(field, f"is longer than {limit} characters")
        allowed = "\r\n\t" if lines else ""
        if any((ord(c) < 32 and c not in allowed) or ord(c) == 127 for c in value):
            raise self.fail(field, "has control characters")
        return value

    def choice(self, field: str, values: tuple[str, ...]) -> str | None:
        value = self._take(field)
        if value is None:
            return None
        if value not in values or not isinstance(value, str):
            raise self.fail(field, f"must be one of {', '.join(values)}")
        return value

    def flag(self, field: str) -> bool | None:
        value = self._take(field)
        if value is None or isinstance(value, bool):
            return value
        raise self.fail(field, "must be true or false")

    def number(self, field: str, *, unit: str = "seconds") -> float | None:
        """A finite number greater than 0."""
        value = self._take(field)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < 1e12:
            raise self.fail(field, f"must be a number of {unit}, greater than 0")
        return float(value)

    def count(self, field: str, *, least: int = 0, most: int | None = None) -> int | None:
        value = self._take(field)
        if value is None:
            return None
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not least <= value <= (2**63 - 1 if most is None else most):
            wanted = f", {least} or more" if most is None else f" from {least} to {most}"
            raise self.fail(field, f"must be a whole number{wanted}")
        return int(value)

    def texts(self, field: str, *, most: int = 1000, limit: int = 4096) -> tuple[str, ...]:
        """A list of strings."""
        value = self._take(field)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > most:
            raise self.fail(field, f"must be a list of at most {most} strings")
        inner = Fields({str(i): item for i, item in enumerate(value)}, self.name(field))
        found = [inner.text(str(i), limit=limit) for i in range(len(value))]
        for i, text in enumerate(found):
            if text is None:
                raise inner.fail(str(i), "must be a string that is not empty")
        return tuple(text for text in found if text is not None)

    def object(self, field: str) -> Fields | None:
        value = self._take(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(field, "must be an object")
        return Fields(value, self.name(field))

    def names(self) -> list[str]:
        """The names that are there, for objects whose names are free; takes them all."""
        self._taken.extend(self._data)
        return list(self._data)

    def finish(self) -> None:
        """Raises InvalidError for a field that nobody took."""
        for field in self._data:
            if field not in self._taken:
                near = difflib.get_close_matches(field, self._taken, n=1)
                hint = f"did you mean {near[0]}?" if near else "known here: " + _list(self._taken)
                where = self.name(clip(field))
                raise InvalidError(f"there is no field {where}", field=where, hint=hint)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def query(request: web.Request, *known: str) -> Fields:
    """The query string's parameters. Raises InvalidError for an unknown one, or one given twice."""
    for name in request.query:
        if name not in known:
            raise InvalidError(
                f"there is no parameter {clip(name)}",
                field=clip(name),
                hint="known here: " + _list(known),
            )
        if len(request.query.getall(name)) > 1:
            raise InvalidError(f"the parameter {name} is there twice", field=name)
    return Fields(dict(request.query))


def query_flag(request: web.Request, fields: Fields, name: str) -> bool:
    """A parameter that is true, false, 1 or 0."""
    text = request.query.get(name)
    if text is None:
        return False
    if text not in ("true", "false", "1", "0"):
        raise fields.fail(name, "must be true or false")
    return text in ("true", "1")
