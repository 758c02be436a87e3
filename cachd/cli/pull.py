"""``cachd pull``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.cli import patterns, render
from cachd.cli.asking import COPY_LEASE_TTL, LeaseKeeper, ask, own_holder
from cachd.cli.client import Client
from cachd.cli.local import local_path, pull_local, to_answer
from cachd.cli.manifest import fetch_wanted
from cachd.cli.materialise import Materialised, Materialiser
from cachd.cli.output import print_json, warn, warn_of_variables
from cachd.cli.progress import Display
from cachd.cli.request import pins_of, refuse_decryption, request_body
from cachd.cli.sockets import pod_socket
from cachd.errors import CachdError, InvalidError, NotFound

if TYPE_CHECKING:
    import argparse

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes shows its content as the container's termination message, KServe as the reason of a
failed load (PropagateModelStatus in pkg/apis/serving/v1beta1/inference_service_status.go)."""

_TERMINATION_LIMIT = 2048


def pull(arguments: argparse.Namespace) -> int:
    """Raises CachdError; leaves the reason in the termination log as well."""
    try:
        _pull(arguments)
    except CachdError as error:
        _leave_reason(error)
        raise
    return 0


def _pull(arguments: argparse.Namespace) -> None:
    destination = Path(arguments.destination) if arguments.destination else None
    if arguments.no_wait and destination:
        raise InvalidError(
            "--no-wait and a destination contradict each other",
            field="--no-wait",
            hint="leave out one of them; see cachd pull --help",
        )
    refuse_decryption(os.environ)
    source = local_path(arguments.uri)
    pins = pins_of(arguments)
    if source is not None:
        if pins:
            raise InvalidError(
                "digests are checked by the daemon, which a local path doesn't come by",
                field="--digest",
                hint="check the files with sha256sum -c",
            )
        _pull_local(arguments, source, destination)
        return
    warn_of_variables(os.environ)
    client = Client(pod_socket(arguments.socket))
    body, warnings = request_body(arguments, os.environ)
    body.update(pins)
    body["priority"] = arguments.priority or os.environ.get("CACHD_PRIORITY") or "interactive"
    for text in warnings:
        warn(text)
    if arguments.no_wait:
        _start(client, body, arguments)
        return
    keep = arguments.lease_ttl is not None or bool(arguments.holder)
    if destination or keep:
        ttl = arguments.lease_ttl if keep else COPY_LEASE_TTL
        body["lease"] = {"holder": arguments.holder or own_holder(), "ttl": ttl}
    with Display(quiet=arguments.quiet) as display:
        answer, done = _bring(client, body, destination, display, arguments, keep=keep)
    if arguments.json:
        print_json({**answer, "destination": arguments.destination, "materialised": _json(done)})
    else:
        print(_summary(answer, destination, done, keep=keep))


def _bring(
    client: Client,
    body: dict[str, Any],
    destination: Path | None,
    display: Display,
    arguments: argparse.Namespace,
    *,
    keep: bool,
) -> tuple[dict[str, Any], Materialised | None]:
    is_last = False
    while True:
        answer = ask(
            client,
            body,
            display,
            wait_daemon=arguments.wait_daemon,
            timeout=arguments.timeout,
        )
        if destination is None:
            return answer, None
        run = Materialiser(
            client,
            answer,
            destination,
            display,
            hard_link=arguments.hard_link,
            verify=arguments.verify,
            wait_daemon=arguments.wait_daemon,
        )
        try:
            with LeaseKeeper(client, answer.get("lease"), keep=keep):
                done = run.already_there()
                if done is None:
                    wanted = fetch_wanted(client, answer, blocks=arguments.verify)
                    done = run.run(wanted)
        except NotFound as error:
            # The snapshot went while it was copied: a daemon that lost its leases.
            if is_last:
                raise
            is_last = True
            display.say(f"{error.message}; asking again")
            continue
        return answer, done


def _pull_local(arguments: argparse.Namespace, source: Path, destination: Path | None) -> None:
    if destination is None:
        raise InvalidError(
            f"{arguments.uri} is a local path; there is nothing to fetch",
            field="DEST",
            hint="name a destination to copy it there; a model elsewhere has a URI such as "
            "s3://bucket/model",
        )
    with Display(quiet=arguments.quiet) as display:
        done = pull_local(
            source,
            arguments.uri,
            destination,
            display,
            allow=patterns.gather(arguments.allow, patterns.ALLOW_VARIABLE, os.environ),
            ignore=patterns.gather(arguments.ignore, patterns.IGNORE_VARIABLE, os.environ),
        )
    answer = to_answer(arguments.uri, source, done)
    if arguments.json:
        print_json({**answer, "destination": arguments.destination, "materialised": _json(done)})
    else:
        print(_summary(answer, destination, done, keep=False))


def _start(client: Client, body: dict[str, Any], arguments: argparse.Namespace) -> None:
    body["wait"] = False
    if arguments.timeout is not None:
        body["timeout"] = arguments.timeout
    answer = client.call("POST", "/v1/models", body)
    if arguments.json:
        print_json(answer)
    elif answer.get("path"):
        print(_summary(answer, None, None, keep=False))
    else:
        state = answer.get("state", "fetching")
        print(render.facts([("key", answer.get("key")), ("state", state)]))


def _summary(
    answer: dict[str, Any], destination: Path | None, done: Materialised | None, *, keep: bool
) -> str:
    what = f"{render.plural(int(answer['files']), 'file')}, {render.size(answer['bytes'])}"
    lines = []
    if done is not None:
        speed = f" ({render.rate(done.bytes / done.seconds)})" if done.seconds > 0.05 else ""
        verified = {True: ", verified", False: ", not verified", None: ""}[done.verified]
        lines.append(
            f"{answer['uri']} → {destination}: {what}; {_how_fetched(answer)}; "
            f"{done.way} in {render.duration(done.seconds)}{speed}{verified}"
        )
    else:
        lines.append(f"{answer['uri']}: {what}; {_how_fetched(answer)}")
        lines.append(
            render.facts(
                [
                    ("path", answer["path"]),
                    ("key", answer["key"]),
                    ("revision", answer["revision"]),
                ]
            )
        )
    lease = answer.get("lease")
    if keep and lease:
        lines.append(f"lease {lease['id']} for {lease['holder']}, {render.duration(lease['ttl'])}")
    if answer.get("validated") is False:
        lines.append("the origin gives nothing that would show a change (unvalidated)")
    return render.printable_lines("\n".join(lines))


def _how_fetched(answer: dict[str, Any]) -> str:
    result = str(answer.get("result"))
    if result == "miss":
        seconds = (answer.get("timings") or {}).get("fetch")
        fetched = answer.get("fetched_bytes") or 0
        took = f" in {render.duration(seconds)}" if seconds else ""
        return f"fetched {render.size(fetched)}{took}"
    return {
        "hit": "cached",
        "stale": "cached (stale: the source can't be reached)",
        "local": "local",
    }.get(result, result)


def _json(done: Materialised | None) -> dict[str, Any] | None:
    return done.to_json() if done else None


def _leave_reason(error: CachdError) -> None:
    if not TERMINATION_LOG.exists():
        return
    text = f"{error.message}\n{error.hint}".strip()
    try:
        TERMINATION_LOG.write_text(render.printable_lines(text)[:_TERMINATION_LIMIT])
    except OSError as failure:
        print(f"cachd: can't write {TERMINATION_LOG}: {failure.strerror}", file=sys.stderr)
