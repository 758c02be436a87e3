"""Every option of ``cachd pull`` as an environment variable: ``--view-mount`` is
``CACHD_VIEW_MOUNT``. Where KServe starts us, nobody can add an option to the command line.

A variable that is set to nothing counts as unset: the downward API gives that for an annotation
that isn't there.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from cachd.cli.patterns import parse_patterns
from cachd.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SWITCH = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def variable_of(action: argparse.Action) -> str:
    """The variable of an option."""
    return "CACHD_" + action.option_strings[-1].lstrip("-").replace("-", "_").upper()


def options_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options that have a variable: all but ``--help``."""
    for action in parser._actions:  # argparse has no public way to list them
        if action.option_strings and action.dest != "help":
            yield action


def fill(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, environ: Mapping[str, str]
) -> None:
    """Give ``arguments`` what the environment says, where the command line said nothing.

    Options have no default but none, so that what was said can be told. Raises InvalidError.
    """
    for action in options_of(parser):
        name = variable_of(action)
        text = environ.get(name, "").strip()
        given = getattr(arguments, action.dest)
        if text and (given is None or given is False or given == []):
            setattr(arguments, action.dest, _read(action, name, text))


def _read(action: argparse.Action, name: str, text: str) -> Any:
    if action.nargs == 0:
        if text.lower() not in _SWITCH:
            raise _fault(name, "write true or false")
        return _SWITCH[text.lower()]
    if action.default == []:
        return [_convert(action, name, item) for item in _items(action.dest, name, text)]
    value = _convert(action, name, text)
    if action.choices is not None and value not in action.choices:
        raise _fault(name, f"write {' or '.join(map(str, action.choices))}")
    return value


def _convert(action: argparse.Action, name: str, text: str) -> Any:
    if action.type is None:
        return text
    assert callable(action.type)
    try:
        return action.type(text)
    except argparse.ArgumentTypeError as error:
        raise _fault(name, str(error)) from None


def _items(option: str, name: str, text: str) -> list[str]:
    """The several values that one variable holds."""
    if option in ("allow", "ignore"):
        return list(parse_patterns(text, name))
    separator = {"digest": "=", "header": ": "}[option]
    if text.startswith("{"):
        try:
            value = json.loads(text)
        except ValueError:
            value = None  # It may hold secrets: no part of it goes into the message.
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise _fault(name, "it is no JSON object of strings")
        return [f"{key}{separator}{item}" for key, item in value.items()]
    # A header's value may have commas. A path that has some is written in a JSON object.
    pieces = text.splitlines() if option == "header" else text.replace("\n", ",").split(",")
    return [piece.strip() for piece in pieces if piece.strip()]


def _fault(name: str, what: str) -> InvalidError:
    return InvalidError(
        f"the environment variable {name} can't be used: {what}",
        field=name,
        hint="correct it, or the pod's annotation that it comes from; see docs/initializer.md",
    )
