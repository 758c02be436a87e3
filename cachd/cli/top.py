"""``cachd top``: what is being fetched, and how full the cache is."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from cachd.cli import render
from cachd.cli.choosing import admin_client
from cachd.cli.looking import models_table, usage_line
from cachd.cli.output import print_json
from cachd.errors import DaemonUnreachable

if TYPE_CHECKING:
    import argparse

_CLEAR_LINE = "\x1b[K"
_HOME = "\x1b[H"
_CLEAR_BELOW = "\x1b[J"
_SHORTEST = 0.2
_RIGHT = frozenset({"DONE", "SIZE", "RATE", "ETA", "FILES"})


def top(arguments: argparse.Namespace) -> int:
    """Redraw until interrupted; once with --once or --json, or where stdout is no terminal."""
    client = admin_client(arguments, needed=False)
    if arguments.json:
        print_json(client.call("GET", "/v1/models"))
        return 0
    if arguments.once or not sys.stdout.isatty():
        print(screen(client.call("GET", "/v1/models"), 200, 1_000_000))
        return 0
    print("\x1b[2J", end="")
    while True:
        columns, lines = shutil.get_terminal_size()
        try:
            text = screen(client.call("GET", "/v1/models", timeout=10.0), columns, lines - 1)
        except DaemonUnreachable as error:
            if error.detail.get("reason") == "permission":
                raise
            text = f"{error.message}\nwaiting for it …"
        body = "".join(f"{line}{_CLEAR_LINE}\n" for line in text.splitlines())
        print(f"{_HOME}{body}{_CLEAR_BELOW}", end="", flush=True)
        time.sleep(max(_SHORTEST, arguments.interval))


def screen(answer: dict[str, Any], columns: int, lines: int) -> str:
    """At most ``lines`` lines: usage, a bar, the fetches, then the last used models."""
    models = answer.get("models") or []
    store = answer.get("store") or {}
    fetching = [model for model in models if model.get("progress")]
    parts = [usage_line(store, len(models)), usage_bar(store, min(columns, 80)), ""]
    if fetching:
        header = ("KEY", "URI", "DONE", "SIZE", "RATE", "ETA", "FILES")
        rows = [_fetch_row(model) for model in fetching]
        parts.append(render.table(header, rows, right=_RIGHT, width=columns, flexible="URI"))
        parts.append("")
    else:
        parts.append("nothing is being fetched\n")
    ready = [model for model in models if not model.get("progress")]
    if ready:
        parts.append(models_table(ready, width=columns))
    return "\n".join("\n".join(parts).splitlines()[:lines])


def usage_bar(store: dict[str, Any], width: int) -> str:
    """Allocated as ``#``, reserved as ``=``, the watermarks as ``|``."""
    quota = store.get("quota") or 0
    room = width - 2
    if quota <= 0 or room < 10:
        return ""
    used = min(room, round(room * (store.get("allocated") or 0) / quota))
    reserved = min(room - used, round(room * (store.get("reserved") or 0) / quota))
    cells = list("#" * used + "=" * reserved + "." * (room - used - reserved))
    for name in ("low_watermark", "high_watermark"):
        mark = store.get(name)
        if mark:
            cells[min(room - 1, max(0, round(room * mark / quota)))] = "|"
    return f"[{''.join(cells)}]"


def _fetch_row(model: dict[str, Any]) -> tuple[object, ...]:
    progress = model["progress"]
    done, total = progress.get("bytes") or 0, progress.get("total")
    return (
        model["key"],
        model["uri"],
        f"{100 * done / total:.0f}%" if total else render.size(done),
        render.size(total),
        render.rate(progress.get("rate")),
        render.duration(progress.get("eta")),
        f"{progress.get('files_done') or 0}/{progress.get('files_total') or '?'}",
    )
