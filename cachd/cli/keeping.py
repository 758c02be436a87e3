"""``cachd rm``, ``pin``, ``unpin``, ``promote``, ``plan``, ``gc``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cachd.cli import render
from cachd.cli.choosing import admin_client, find_key
from cachd.cli.client import path_of
from cachd.cli.looking import floor_note, terminal_width
from cachd.cli.output import print_json, warn
from cachd.cli.request import passes_of, request_body
from cachd.errors import InvalidError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_RIGHT = frozenset({"SIZE", "BYTES"})


def rm(arguments: argparse.Namespace) -> int:
    client = admin_client(arguments, needed=True)
    removed = []
    for text in arguments.model:
        key = find_key(client, text, strict=True)
        query = {"force": "true"} if arguments.force else None
        answer = client.call("DELETE", path_of("models", key), query=query)
        removed.append({"key": key, "freed": answer.get("freed", 0)})
        if not arguments.json:
            print(f"removed {key}, {render.size(answer.get('freed', 0))} freed")
    if arguments.json:
        print_json({"removed": removed})
    return 0


def pin(arguments: argparse.Namespace) -> int:
    return _pin(arguments, "PUT", "pinned")


def unpin(arguments: argparse.Namespace) -> int:
    return _pin(arguments, "DELETE", "unpinned")


def _pin(arguments: argparse.Namespace, method: str, done: str) -> int:
    client = admin_client(arguments, needed=True)
    answers = []
    for text in arguments.model:
        key = find_key(client, text, strict=True)
        answers.append(client.call(method, path_of("models", key, "pin")))
        if not arguments.json:
            print(f"{done} {answers[-1].get('key')}")
    if arguments.json:
        print_json({"models": answers})
    return 0


def promote(arguments: argparse.Namespace) -> int:
    client = admin_client(arguments, needed=True)
    key = find_key(client, arguments.model, strict=True)
    revision = arguments.revision
    if revision is not None:
        revision = _whole(client.call("GET", path_of("models", key)), revision.lower())
    body = {"revision": revision}
    answer = client.call("POST", path_of("models", key, "promote"), body, timeout=600.0)
    if arguments.json:
        print_json(answer)
        return 0
    named = f"{key} revision {answer['revision']}"
    if answer["state"] != "promoted":
        when = "it is being fetched" if answer["state"] == "fetching" else "it isn't here yet"
        print(f"approved {named}: {when}, and is given as soon as it is here")
    elif answer["previous"] == answer["revision"]:
        print(f"{named} is given, as before")
    else:
        print(f"promoted {named}; before: {answer['previous'] or 'none'}")
    return 0


def _whole(model: dict[str, Any], start: str) -> str:
    """The revision that begins so; ``start`` itself if that isn't one and no more. Raises
    InvalidError where it is none that could be meant."""
    known = [*(model.get("revisions") or []), (model.get("update") or {}).get("revision")]
    found = {name for name in known if name and name.startswith(start)}
    if len(found) > 1 and start not in found:
        raise InvalidError(
            f"{len(found)} revisions begin with {render.printable(start)}: "
            f"{', '.join(sorted(found))}",
            field="REVISION",
            hint="write more of its digits",
        )
    return found.pop() if len(found) == 1 else start


def gc(arguments: argparse.Namespace) -> int:
    client = admin_client(arguments, needed=True)
    body = {"dry_run": arguments.dry_run, "target": arguments.target}
    answer = client.call("POST", "/v1/gc", body, timeout=600.0)
    if arguments.json:
        print_json(answer)
        return 0
    evicted = answer.get("evicted") or []
    if evicted:
        print(_victims(evicted))
        print()
    verb = "would be" if answer.get("dry_run") else "were"
    count = render.plural(len(evicted), "model")
    print(f"{count} {verb} evicted, {render.size(answer.get('freed', 0))} freed")
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Exit code 0 if it fits, 6 if it doesn't."""
    if (arguments.uri is None) == (arguments.bytes is None):
        raise InvalidError(
            "name a URI or --bytes, one of them",
            field="URI",
            hint="such as cachd plan s3://bucket/model, or cachd plan --bytes 200GiB; "
            "see cachd plan --help",
        )
    client = admin_client(arguments, needed=False)
    if arguments.uri is None:
        body: dict[str, Any] = {"bytes": arguments.bytes}
    else:
        body, warnings = request_body(arguments, os.environ)
        for text in warnings:
            warn(text)
        body = passes_of(arguments, os.environ, body).body()
    answer = client.call("POST", "/v1/plan", body, timeout=300.0)
    fits = bool(answer.get("fits"))
    if arguments.json:
        print_json(answer)
    else:
        print(_plan_text(answer))
    return 0 if fits else 6


def _plan_text(answer: dict[str, Any]) -> str:
    evict = answer.get("evict") or []
    held = answer.get("held_by") or []
    if answer.get("result") == "hit":
        verdict = "it is in the cache"
    elif not answer.get("fits"):
        verdict = f"it does not fit: {render.size(answer.get('shortfall'))} are missing"
    elif evict:
        gone = sum(victim.get("bytes") or 0 for victim in evict)
        verdict = f"it fits after {render.plural(len(evict), 'eviction')} ({render.size(gone)})"
    else:
        verdict = "it fits"
    parts = [
        verdict,
        render.facts(
            [
                ("needed", render.size(answer.get("needed"))),
                ("quota", render.size(answer.get("quota"))),
                ("free", render.size(answer.get("free"))),
                ("floor", floor_note(answer)),
            ]
        ),
    ]
    if evict:
        parts.append("would go:\n" + _victims(evict))
    if held and not answer.get("fits"):
        rows = [
            (_held_by(h.get("what")), h.get("key") or "-", render.size(h.get("bytes")))
            for h in held
        ]
        parts.append("what holds the space:\n" + render.table(("WHAT", "KEY", "BYTES"), rows))
    return "\n\n".join(parts)


def _held_by(what: object) -> str:
    return {
        "others": "other files on the volume",
        "open-files": "deleted files that somebody holds open",
    }.get(str(what), str(what or "-"))


def _victims(victims: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            victim.get("key", "-"),
            victim.get("uri", "-"),
            str(victim.get("revision", "-"))[:12],
            render.size(victim.get("bytes")),
            render.ago(victim.get("last_used")),
            victim.get("reason", "-"),
        )
        for victim in victims
    ]
    header = ("KEY", "URI", "REVISION", "SIZE", "USED", "REASON")
    return render.table(header, rows, right=_RIGHT, width=terminal_width(), flexible="URI")
