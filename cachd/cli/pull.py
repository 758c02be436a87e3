"""``cachd pull``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.cli import metadata_file, patterns, render, termination, variables, views
from cachd.cli.asking import COPY_LEASE_TTL, own_holder
from cachd.cli.bringing import WAIT_DAEMON, Wishes, bring
from cachd.cli.client import Client
from cachd.cli.layouts import layout_of
from cachd.cli.local import local_path, pull_local, to_answer
from cachd.cli.output import print_json, warn, warn_of_variables
from cachd.cli.progress import HEARTBEAT, Display
from cachd.cli.remote import remote_client
from cachd.cli.request import passes_of, pins_of, refuse_decryption, request_body
from cachd.cli.sockets import pod_socket, token_file
from cachd.cli.summary import how_it_went
from cachd.errors import CachdError, InvalidError

if TYPE_CHECKING:
    import argparse

    from cachd.cli.ambient import Passes
    from cachd.cli.materialise import Materialised


def pull(arguments: argparse.Namespace) -> int:
    """Raises CachdError; leaves the reason in the termination log as well."""
    try:
        variables.fill(arguments.parser, arguments, os.environ)
        _pull(arguments)
    except CachdError as error:
        termination.leave(termination.message(error, arguments.uri, os.environ))
        raise
    except Exception as error:
        # An error of ours would have said more; what it holds may be anybody's secret.
        what = getattr(error, "strerror", None) or f"cachd failed ({type(error).__name__})"
        termination.leave(f"{termination.show_uri(arguments.uri)}: {what}; see the log")
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
    layout = layout_of(arguments)
    metadata = metadata_file.wish_of(arguments, destination, has_layout=layout is not None)
    source = local_path(arguments.uri)
    pins = pins_of(arguments)
    if source is not None:
        if pins:
            raise InvalidError(
                "digests are checked by the daemon, which a local path doesn't come by",
                field="--digest",
                hint="check the files with sha256sum -c",
            )
        _pull_local(arguments, source, destination, metadata)
        return
    warn_of_variables(os.environ)
    view = None if layout else views.wish_of(arguments, destination, os.environ)
    if view is not None and metadata is not None:
        metadata.refuse_inside("a view is read-only")
    client = _client(arguments)
    body, warnings = request_body(arguments, os.environ)
    body.update(pins)
    body["priority"] = arguments.priority or "interactive"
    for text in warnings:
        warn(text)
    passes = passes_of(arguments, os.environ, body)
    if arguments.no_wait:
        _start(client, passes, arguments)
        return
    keep = arguments.lease_ttl is not None or bool(arguments.holder)
    if destination or keep:
        passes.set(lease=_lease(arguments, keep=keep))
    wait_daemon = WAIT_DAEMON if arguments.wait_daemon is None else arguments.wait_daemon
    wishes = Wishes(
        destination=destination,
        view=view,
        metadata=metadata,
        wait_daemon=wait_daemon,
        timeout=arguments.timeout,
        hard_link=arguments.hard_link,
        verify=arguments.verify,
        keep=keep,
        fallback=arguments.fallback,
        forward=not arguments.no_forward,
        layout=layout,
    )
    with _display(arguments) as display:
        if destination:
            display.say(f"{termination.show_uri(arguments.uri)} → {destination}")
        answer, done = bring(client, passes, wishes, display)
    _tell(arguments, answer, done, keep=keep)


def _client(arguments: argparse.Namespace) -> Client:
    """``--socket`` comes first, then ``CACHD_API``: an image may have ``CACHD_SOCKET`` set."""
    is_named = arguments.socket not in (None, os.environ.get("CACHD_SOCKET"))
    remote = None if is_named else remote_client(os.environ)
    return remote or Client(pod_socket(arguments.socket), token_file=token_file())


def _lease(arguments: argparse.Namespace, *, keep: bool) -> dict[str, Any]:
    lease: dict[str, Any] = {"holder": arguments.holder or own_holder()}
    if not keep:
        return {**lease, "ttl": COPY_LEASE_TTL}
    if arguments.lease_ttl is not None:
        return {**lease, "ttl": arguments.lease_ttl}
    pod = os.environ.get("POD_UID")
    return {**lease, "pod": pod} if pod else lease


def _display(arguments: argparse.Namespace) -> Display:
    heartbeat = HEARTBEAT if arguments.heartbeat is None else arguments.heartbeat
    return Display(quiet=arguments.quiet, heartbeat=heartbeat)


def _pull_local(
    arguments: argparse.Namespace,
    source: Path,
    destination: Path | None,
    metadata: metadata_file.MetadataFile | None,
) -> None:
    if destination is None:
        raise InvalidError(
            f"{arguments.uri} is a local path; there is nothing to fetch",
            field="DEST",
            hint="name a destination to copy it there; a model elsewhere has a URI such as "
            "s3://bucket/model",
        )
    with _display(arguments) as display:
        done = pull_local(
            source,
            arguments.uri,
            destination,
            display,
            allow=patterns.gather(arguments.allow, patterns.ALLOW_VARIABLE, os.environ),
            ignore=patterns.gather(arguments.ignore, patterns.IGNORE_VARIABLE, os.environ),
            metadata=metadata,
        )
    _tell(arguments, to_answer(arguments.uri, source, done), done, keep=False)


def _start(client: Client, passes: Passes, arguments: argparse.Namespace) -> None:
    passes.set(wait=False, timeout=arguments.timeout)
    answer = client.call("POST", "/v1/models", passes.body())
    if arguments.json:
        print_json(answer)
    elif answer.get("path"):
        print(how_it_went(answer, None, None, keep=False))
    else:
        state = answer.get("state", "fetching")
        print(render.facts([("key", answer.get("key")), ("state", state)]))


def _tell(
    arguments: argparse.Namespace,
    answer: dict[str, Any],
    done: Materialised | None,
    *,
    keep: bool,
) -> None:
    if arguments.json:
        came = done.to_json() if done else None
        print_json({**answer, "destination": arguments.destination, "materialised": came})
    else:
        print(how_it_went(answer, arguments.destination, done, keep=keep))
