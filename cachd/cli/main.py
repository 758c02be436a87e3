"""The entry point: parse, run, and say what went wrong in one place."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from cachd.cli import exits, initializer, render
from cachd.cli.output import report
from cachd.cli.parser import build
from cachd.errors import CachdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from types import FrameType

_COMMANDS = {
    "serve": "cachd.cli.serve:serve",
    "check-config": "cachd.cli.serve:check_config",
    "version": "cachd.cli.looking:version",
    "pull": "cachd.cli.pull:pull",
    "ls": "cachd.cli.looking:ls",
    "views": "cachd.cli.pods:views",
    "show": "cachd.cli.looking:show",
    "key": "cachd.cli.naming:key",
    "plan": "cachd.cli.keeping:plan",
    "may": "cachd.cli.explaining:may",
    "top": "cachd.cli.top:top",
    "rm": "cachd.cli.keeping:rm",
    "pin": "cachd.cli.keeping:pin",
    "unpin": "cachd.cli.keeping:unpin",
    "promote": "cachd.cli.keeping:promote",
    "gc": "cachd.cli.keeping:gc",
    "verify": "cachd.cli.verifying:verify",
    "import": "cachd.cli.importing:import_model",
    "export": "cachd.cli.exporting:export_model",
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM, unwound like SIGINT, so that a destination is cleaned up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (see ``cachd.cli.exits``), or an initializer's 0 or 1."""
    argv = sys.argv[1:] if argv is None else argv
    if initializer.is_meant(argv):
        return initializer.run(argv, lambda uri, place: _main(["pull", "--", uri, place]))
    return _main(argv)


def _main(argv: Sequence[str]) -> int:
    arguments = build().parse_args(argv)
    if arguments.command != "serve":
        # An init container is process 1, which has no default action for this signal.
        signal.signal(signal.SIGTERM, _on_terminate)
    try:
        return run(arguments)
    except CachdError as error:
        report(error, as_json=arguments.json)
        return exits.exit_of(error)
    except _Terminated:
        print("cachd: terminated", file=sys.stderr)
        return exits.TERMINATED
    except KeyboardInterrupt:
        print("cachd: interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone.
        _give_up_stdout()
        return exits.FAILURE
    except OSError as error:
        if arguments.command == "serve" or error.strerror is None:
            raise  # a defect: its traceback is wanted
        where = error.filename or "standard output"
        _give_up_stdout()
        print(f"cachd: {render.printable(where)}: {error.strerror}", file=sys.stderr)
        return exits.FAILURE


def _give_up_stdout() -> None:
    """The interpreter's last flush must not fail as well."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def run(arguments: argparse.Namespace) -> int:
    """Import the command and run it."""
    module, _, name = _COMMANDS[arguments.command].partition(":")
    command: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), name)
    code = command(arguments)
    sys.stdout.flush()
    return code


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
