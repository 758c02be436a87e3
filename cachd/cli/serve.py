"""``cachd serve`` and ``check-config``: the only commands that load the daemon's libraries."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.cli.output import print_json, warn
from cachd.environment import default_root, default_socket
from cachd.errors import ConfigInvalid

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from cachd.settings import Settings


def serve(arguments: argparse.Namespace) -> int:
    """Run the daemon until a signal ends it. Raises CachdError if it can't start."""
    settings = _settings(arguments.config, _overlay(arguments))
    from cachd.daemon import serve as run  # noqa: PLC0415  (loads the whole daemon)

    return asyncio.run(run(settings))


def check_config(arguments: argparse.Namespace) -> int:
    """Print the effective settings, and where root and sockets would be."""
    settings = _settings(arguments.file)
    root = settings.store.root or default_root()
    socket = settings.listen.socket or default_socket()
    admin = settings.listen.admin_socket or socket.with_name("admin.sock")
    problems = _problems(root, socket)
    effective = {
        "settings": settings.model_dump(mode="json"),
        "paths": {"root": str(root), "socket": str(socket), "admin_socket": str(admin)},
        "problems": problems,
    }
    if arguments.json:
        print_json(effective)
    else:
        import yaml  # noqa: PLC0415

        text = yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)
        print("# effective settings")
        print(text)
        print(f"# root: {root}\n# socket: {socket}\n# admin socket: {admin}")
    for problem in problems:
        warn(problem)
    if problems:
        return 1
    print("cachd: the configuration is right", file=sys.stderr)
    return 0


def _settings(file: str | None, overlay: Mapping[str, tuple[str, str]] | None = None) -> Settings:
    from cachd.registries.kinds import check_kinds  # noqa: PLC0415
    from cachd.settings import load_settings  # noqa: PLC0415

    name = file or os.environ.get("CACHD_CONFIG")
    settings = load_settings(Path(name) if name else None, os.environ, overlay)
    check_kinds(settings.sources.registries)
    return settings


def _overlay(arguments: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Each setting that an option gives, with the option and its text."""
    from cachd.settings import suggest, walk_fields  # noqa: PLC0415

    overlay: dict[str, tuple[str, str]] = {}
    known = {".".join(path) for path, _, _ in walk_fields()}
    for item in arguments.set:
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals or name not in known:
            what = "no value" if name in known else f"no such setting{suggest(name)}"
            raise ConfigInvalid(
                f"--set {name}: {what}",
                field=name,
                hint="write --set NAME=VALUE, such as fetch.connections=32; see docs/settings.md",
            )
        overlay[name] = (f"--set {name}", value)
    for name, value in (
        ("store.root", arguments.root),
        ("store.quota", arguments.quota),
        ("store.standby", "true" if arguments.standby else None),
        ("listen.socket", arguments.socket),
        ("listen.admin_socket", arguments.admin_socket),
        ("listen.health_address", arguments.health_address),
        ("offline", "true" if arguments.offline else None),
        ("log.format", arguments.log_format),
        ("log.level", arguments.log_level),
    ):
        if value is not None:
            option = name if name.startswith("log.") else name.rpartition(".")[2]
            overlay[name] = (f"--{option.replace('.', '-').replace('_', '-')}", value)
    if arguments.json and not arguments.log_format:
        overlay["log.format"] = ("--json", "json")
    return overlay


def _problems(root: Path, socket: Path) -> list[str]:
    """What would keep the daemon from starting, found without changing anything."""
    found = []
    for what, path in (("root", root), ("socket's directory", socket.parent)):
        nearest = path
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir():
            found.append(f"the {what} {path} can't be made: {nearest} is no directory")
        elif not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
            found.append(f"the {what} {path} can't be written by uid {os.geteuid()}")
    return found


def _plain(value: Any) -> Any:
    """Plain types for YAML, sizes as people write them."""
    from pydantic import BaseModel, ByteSize  # noqa: PLC0415

    from cachd.settings import Share, show_bytes  # noqa: PLC0415

    if isinstance(value, BaseModel):
        return {name: _plain(item) for name, item in value}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Share):
        return str(value) if value.endswith("%") else show_bytes(int(value))
    if isinstance(value, ByteSize):
        return show_bytes(value)
    return (
        int(value)
        if isinstance(value, int)
        else float(value)
        if isinstance(value, float)
        else str(value)
    )
