"""``cachd verify``: what is cached, against its checksums. Exit code 1: something is bad still."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cachd.cli import exits, render
from cachd.cli.choosing import admin_client, find_key
from cachd.cli.client import Client, path_of
from cachd.cli.output import print_json
from cachd.errors import InvalidError

if TYPE_CHECKING:
    import argparse

_SILENCE = 60.0


def verify(arguments: argparse.Namespace) -> int:
    if bool(arguments.model) == arguments.all:
        raise InvalidError(
            "name models or --all, one of them",
            field="KEY|URI",
            hint="such as cachd verify s3://bucket/model, or cachd verify --all",
        )
    client = admin_client(arguments, needed=True)
    targets = ["/v1/verify"]
    if arguments.model:
        keys = [find_key(client, text, strict=True) for text in arguments.model]
        targets = [path_of("models", key, "verify") for key in keys]
    body = {"repair": arguments.repair, "rate": arguments.rate}
    answers = [_run(client, target, body, is_quiet=arguments.quiet) for target in targets]
    is_ok = all(answer.get("ok") for answer in answers)
    if arguments.json:
        print_json(answers[0] if arguments.all or len(answers) == 1 else {"answers": answers})
    else:
        for answer in answers:
            _show(answer, can_repair=not arguments.repair)
    return exits.OK if is_ok else exits.FAILURE


def _run(client: Client, target: str, body: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    shows = sys.stderr.isatty() and not is_quiet
    answer: dict[str, Any] = {}
    for event in client.events(target, body, timeout=_SILENCE):
        if event.get("event") == "ready":
            answer = {name: value for name, value in event.items() if name != "event"}
        elif shows and event.get("event") == "progress":
            done = f"{render.size(event.get('bytes'))} of {render.size(event.get('total'))}"
            print(f"\r\x1b[K{event.get('key')}: {done}", end="", file=sys.stderr, flush=True)
    if shows:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return answer


def _show(answer: dict[str, Any], *, can_repair: bool) -> None:
    for finding in answer.get("findings") or []:
        print(f"{finding.get('key')} {render.printable(finding.get('uri'))}: {finding['state']}")
        for file in finding.get("files") or []:
            print(f"  {render.printable(file.get('path'))}: {_describe(file)}")
        for path in finding.get("extra") or []:
            print(f"  {render.printable(path)}: in no manifest")
        if finding.get("reason"):
            print(f"  not repaired: {render.printable(finding['reason'])}")
    count = render.plural(answer.get("snapshots", 0), "snapshot")
    said = f"{count}, {render.size(answer.get('bytes', 0))} read"
    bad, repaired = answer.get("bad_blocks", 0), answer.get("repaired_blocks", 0)
    if bad:
        said += f"; {render.plural(bad, 'bad block')}, {repaired} repaired"
    print(f"{said}: {'all is well' if answer.get('ok') else 'not all is well'}")
    if not answer.get("ok") and can_repair:
        print("  next: cachd verify --repair fetches what is bad again")


def _describe(file: dict[str, Any]) -> str:
    words = {
        "missing": "it is missing",
        "size": "it has another size",
        "unreadable": "it can't be read",
    }
    ranges = file.get("ranges") or []
    where = ", ".join(f"{r['offset']}+{r['length']}" for r in ranges[:8])
    said = words.get(str(file.get("problem")), "bad bytes")
    if where:
        said += f" ({where}{', …' if len(ranges) > 8 else ''})"
    return said + (", repaired" if file.get("repaired") else "")
