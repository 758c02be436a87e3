"""``cachd views``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cli import render
from cachd.cli.choosing import admin_client
from cachd.cli.output import print_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_NAMES = ("POD", "NAME", "MODEL", "REVISION", "MODE", "FILES", "SIZE", "ENDS WITH")
_RIGHT = frozenset({"FILES", "SIZE"})


def views(arguments: argparse.Namespace) -> int:
    answer = admin_client(arguments, needed=False).call("GET", "/v1/views")
    if arguments.json:
        print_json(answer)
        return 0
    print(views_table(answer.get("views") or []))
    return 0


def views_table(found: Sequence[dict[str, Any]]) -> str:
    """One line per view, by pod."""
    rows = [
        (
            view.get("pod_name") or view["pod"],
            view["name"] or "-",
            view["uri"],
            str(view["revision"])[:12],
            view["mode"],
            view["files"],
            render.size(view["bytes"]),
            "pod" if view["until"] == "pod" else render.duration(view.get("expires_in")),
        )
        for view in found
    ]
    rows.sort(key=lambda row: row[:2])
    return render.table(_NAMES, rows, right=_RIGHT)
