"""Which daemon socket a command uses, and which model its argument means."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from cachd.cli import render
from cachd.cli.client import Client, path_of
from cachd.cli.forward import gather
from cachd.cli.output import warn_of_variables
from cachd.cli.sockets import admin_socket, may_open, pod_socket, token_file
from cachd.errors import Forbidden, InvalidError, ModelUnknown

if TYPE_CHECKING:
    import argparse

_KEY = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")


def admin_client(arguments: argparse.Namespace, *, needed: bool) -> Client:
    """The administrators' socket where it is there and may be opened; else the pods'.

    ``needed``: the call is for administrators only. Then an administrators' socket that this user
    may not open raises Forbidden, for the pods' would only say no less clearly.
    """
    warn_of_variables(os.environ)
    pods = pod_socket(arguments.socket)
    path, is_named = admin_socket(arguments.admin_socket, pods)
    if may_open(path):
        return Client(path)
    if is_named:
        return Client(path)  # Fails with the reason.
    if needed and path.exists():
        raise Forbidden(
            f"uid {os.geteuid()} may not open the administrators' socket {path}",
            hint="run as the daemon's user or as root",
        )
    return Client(pods, token_file=token_file())


def find_key(client: Client, text: str, *, strict: bool = False) -> str:
    """The key that ``text`` is, or that the model with this URI has: the one that a pull from this
    environment would get, else the only one. ``strict``: the only one.

    Raises ModelUnknown, or InvalidError where several models have the URI.
    """
    if _KEY.fullmatch(text.lower()):
        return text.lower()
    if "://" not in text:
        raise InvalidError(
            f"{render.printable(text)} is neither a key nor a URI",
            field="KEY|URI",
            hint="a key has 16 or 32 hex digits; `cachd ls` lists them",
        )
    named = None if strict else _named(client, text)
    if named is not None:
        return named
    rows = [row for row in list_models(client) if row.get("uri") == text.removeprefix("cachd+")]
    if not rows and strict:
        named = _named(client, text)
        if named is not None:
            return named
    if not rows:
        raise ModelUnknown(
            f"the cache has no model {render.printable(text)}, or this caller may not see it",
            hint="`cachd ls` lists what is there for you: a model fetched with somebody's own "
            "credentials is listed for administrators only",
        )
    keys = sorted({str(row["key"]) for row in rows})
    if len(keys) > 1:
        raise InvalidError(
            f"{len(keys)} models have this URI (from several origins, or with patterns): "
            f"{', '.join(keys)}",
            field="KEY|URI",
            hint="name one by its key",
        )
    return keys[0]


def _named(client: Client, uri: str) -> str | None:
    """The key of ``uri`` with the origin that this environment names, if the cache has it."""
    options = gather(os.environ, uri).options
    try:
        key = str(client.call("POST", "/v1/key", {"uri": uri, "options": options})["key"])
        client.call("GET", path_of("models", key))
    except ModelUnknown:
        return None
    return key


def list_models(client: Client) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = client.call("GET", "/v1/models").get("models", [])
    return rows
