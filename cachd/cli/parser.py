"""The command line's grammar. Light: commands are imported when they run."""

from __future__ import annotations

import argparse
from typing import NoReturn

from cachd import __version__
from cachd.cli import exits, render
from cachd.cli.pull_options import EPILOG, add_pull_options, add_uri_options, seconds

_EPILOG = f"exit codes:\n{exits.table()}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def _size(text: str) -> int:
    try:
        return render.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """The reason first, then where to read on. Exit code 2."""
        if message.endswith("required: COMMAND"):
            message = "name a command"
        self.exit(exits.USAGE, f"{self.prog}: {message}\n  next: see {self.prog} --help\n")


class _Commands:
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(
            dest="command", metavar="COMMAND", required=True, title="commands", prog="cachd"
        )

    def add(self, name: str, text: str, *, daemon: bool = True) -> argparse.ArgumentParser:
        command = self._commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=_EPILOG,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        if daemon:
            command.add_argument(
                "--socket",
                metavar="PATH",
                help="the pods' socket (default: CACHD_SOCKET, else the daemon's default)",
            )
            command.add_argument(
                "--admin-socket",
                metavar="PATH",
                help="the administrators' socket (default: CACHD_ADMIN_SOCKET, else admin.sock "
                "beside the pods' socket)",
            )
        command.add_argument("--json", action="store_true", help="answer with JSON on stdout")
        return command


def build() -> argparse.ArgumentParser:
    """The parser of ``cachd``."""
    parser = _Parser(
        prog="cachd",
        usage="cachd COMMAND [OPTION…]\n       cachd URI DEST [URI DEST…]   "
        "(as KServe's storage initializer; see cachd pull --help)",
        description="The model cache of a node: ask for a URI, get a verified model, once.",
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cachd {__version__}")
    commands = _Commands(parser)
    _serve(commands)
    _pull(commands)
    _looking(commands)
    _keeping(commands)
    _carrying(commands)
    return parser


def _serve(commands: _Commands) -> None:
    serve = commands.add("serve", "run the daemon", daemon=False)
    settings = serve.add_argument_group(
        "settings (each over the configuration file and the environment)"
    )
    config = "configuration file, YAML (default: CACHD_CONFIG, else none)"
    settings.add_argument("--config", metavar="FILE", help=config)
    settings.add_argument("--root", metavar="DIR", help="directory of the models")
    settings.add_argument("--socket", metavar="PATH", help="the pods' socket")
    settings.add_argument("--admin-socket", metavar="PATH", help="the administrators' socket")
    settings.add_argument("--quota", metavar="SIZE", help="such as 200GiB or 80%%")
    settings.add_argument("--health-address", metavar="HOST:PORT", help="/metrics and probes")
    settings.add_argument("--offline", action="store_true", help="never call out")
    settings.add_argument(
        "--standby", action="store_true", help="wait while another daemon holds the root"
    )
    settings.add_argument("--log-format", choices=("text", "json"))
    settings.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    settings.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any setting, such as fetch.connections=32; may be repeated",
    )
    check = commands.add(
        "check-config", "print the effective settings, or what is wrong with them", daemon=False
    )
    check.add_argument("file", nargs="?", metavar="FILE", help=config)
    commands.add("version", "print the versions of client and daemon")


def _pull(commands: _Commands) -> None:
    pull = commands.add("pull", "have a model fetched, and bring it into a directory")
    add_pull_options(pull)
    pull.set_defaults(parser=pull)
    pull.epilog = f"{EPILOG}\n\n{_EPILOG}"


def _looking(commands: _Commands) -> None:
    commands.add("ls", "list the models")
    commands.add("views", "list what pods have mounted")
    show = commands.add("show", "show one model with its files")
    show.add_argument("model", metavar="KEY|URI")
    key = commands.add("key", "print the key of a URI on a daemon with the given settings")
    key.add_argument("uri", metavar="URI")
    key.add_argument("--config", metavar="FILE", help="the daemon's configuration file")
    add_uri_options(key)
    plan = commands.add("plan", "tell whether a model would fit, and what would go")
    plan.add_argument("uri", nargs="?", metavar="URI")
    plan.add_argument("--bytes", metavar="SIZE", type=_size, help="a size instead of a URI")
    add_uri_options(plan)
    may = commands.add("may", "tell what the access rules say of somebody, and why")
    may.add_argument("verb", metavar="VERB", choices=("read", "fetch", "pin", "evict", "admin"))
    may.add_argument("uri", nargs="?", metavar="URI", help="default: what concerns no one model")
    may.add_argument("--uid", metavar="UID", type=int, help="of the process")
    may.add_argument("--namespace", metavar="NAME", help="of its service account")
    may.add_argument(
        "--service-account", metavar="[NAMESPACE/]NAME", help="default: default, with --namespace"
    )
    top = commands.add("top", "watch fetches and usage")
    top.add_argument("--once", action="store_true", help="print once and end")
    top.add_argument("--interval", metavar="SECONDS", type=seconds, default=1.0, help="default: 1")


def _keeping(commands: _Commands) -> None:
    remove = commands.add("rm", "remove a model from the cache")
    remove.add_argument("model", metavar="KEY|URI", nargs="+")
    remove.add_argument("--force", action="store_true", help="even if leased or pinned")
    for name, text in (("pin", "keep a model"), ("unpin", "let a model be evicted again")):
        command = commands.add(name, text)
        command.add_argument("model", metavar="KEY|URI", nargs="+")
    promote = commands.add("promote", "say which revision of a model is given from now on")
    promote.add_argument("model", metavar="KEY|URI")
    promote.add_argument(
        "revision",
        nargs="?",
        metavar="REVISION",
        help="or its first digits; an older one to go back (default: the update that waits)",
    )
    verify = commands.add("verify", "read models again, against their checksums")
    verify.add_argument("model", metavar="KEY|URI", nargs="*")
    verify.add_argument("--all", action="store_true", help="everything that is cached")
    verify.add_argument("--repair", action="store_true", help="fetch what is bad again")
    verify.add_argument(
        "--rate",
        metavar="SIZE",
        type=_size,
        help="bytes per second to read at most, 0: no limit (default: the daemon's scrub.rate)",
    )
    verify.add_argument("--quiet", action="store_true", help="no progress")
    collect = commands.add("gc", "evict idle models down to the low watermark, or to a target")
    collect.add_argument("--dry-run", action="store_true", help="tell what would go, and why")
    collect.add_argument("--target", metavar="SIZE", type=_size, help="bytes to leave allocated")


def _carrying(commands: _Commands) -> None:
    bring = commands.add("import", "bring a model from a directory or tar file into the cache")
    bring.add_argument("source", metavar="DIR|TAR", help="a tar may be compressed; - is stdin")
    bring.add_argument(
        "--as", dest="uri", metavar="URI", required=True, help="the URI to be asked for later"
    )
    bring.add_argument("--quiet", action="store_true", help="no progress")
    take = commands.add("export", "write a model to a directory or tar file")
    take.add_argument("model", metavar="KEY|URI")
    take.add_argument("target", metavar="DIR|TAR|-", help="a name that ends in .tar is a tar file")
    take.add_argument("--revision", metavar="HEX", help="default: the current one")
    take.add_argument("--quiet", action="store_true", help="no progress")
