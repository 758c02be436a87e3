"""``cachd import``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cachd.cli import render
from cachd.cli.archive import chunks_of, files_of, reading, tar_of
from cachd.cli.choosing import admin_client
from cachd.cli.output import print_json
from cachd.cli.progress import Display, Meter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from cachd.cli.client import Client

_COMMIT_TIMEOUT = 3600.0
"""Seconds without a byte: the daemon syncs the whole model before it answers."""


def import_model(arguments: argparse.Namespace) -> int:
    """Stream a directory or a tar file to the daemon. Raises CachdError."""
    client = admin_client(arguments, needed=True)
    with Display(quiet=arguments.quiet) as display:
        answer = _send(client, arguments.source, arguments.uri, display)
    if arguments.json:
        print_json(answer)
        return 0
    print(
        f"{answer['uri']}: {render.plural(int(answer['files']), 'file')}, "
        f"{render.size(answer['bytes'])} imported"
    )
    print(
        render.facts(
            [
                ("key", answer["key"]),
                ("origin", answer.get("origin")),
                ("revision", answer["revision"]),
            ]
        )
    )
    return 0


def _send(client: Client, source: str, uri: str, display: Display) -> dict[str, Any]:
    if source == "-":
        meter = Meter(display, "importing", 0, 0)
        stdin = cast("BinaryIO", sys.stdin.buffer)
        return _post(client, uri, chunks_of(stdin, "standard input", meter.add))
    path = Path(source)
    with reading(source):
        is_file = path.is_file()
    if is_file:
        # A compressed archive's plain size isn't known before its end.
        meter = Meter(display, "importing", 0, 0)
        with reading(source):
            file = path.open("rb")
        with file:
            return _post(client, uri, chunks_of(file, source, meter.add))
    files = files_of(path)
    meter = Meter(display, "importing", sum(size for _, _, size in files), len(files))
    return _post(client, uri, tar_of(files, meter.add))


def _post(client: Client, uri: str, chunks: Iterator[bytes]) -> dict[str, Any]:
    with client.open(
        "POST",
        "/v1/import",
        chunks=chunks,
        query={"uri": uri},
        headers={"Content-Type": "application/x-tar"},
        timeout=_COMMIT_TIMEOUT,
    ) as answer:
        return answer.read_object()
