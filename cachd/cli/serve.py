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

    from cachd.settings import Settings


def serve(arguments: argparse.Namespace) -> int:
    """Run the daemon until a signal ends it. Raises CachdError if it can't start."""
    settings = _settings(arguments.config, _overlay(arguments))
    from cachd.daemon import serve as run  # noqa: PLC0415  (loads the whole daemon)

    return asyncio.run(run(settings))


def check_config(arguments: argparse.Namespace) -> int:
    """Print the effective settings, and where root and sockets would be."""
    settings = _settings(arguments.file, {})
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

        text = yaml.safe_dump(_plain(effective["settings"]), sort_keys=False, allow_unicode=True)
        print("# effective settings")
        print(text)
        print(f"# root: {root}\n# socket: {socket}\n# admin socket: {admin}")
    for problem in problems:
        warn(problem)
    if problems:
        return 1
    print("cachd: the configuration is right", file=sys.stderr)
    return 0


def _settings(file: str | None, overlay: dict[str, str]) -> Settings:
    from cachd.settings import load_settings  # noqa: PLC0415

    name = file or os.environ.get("CACHD_CONFIG")
    return load_settings(Path(name) if name else None, {**os.environ, **overlay})


def _overlay(arguments: argparse.Namespace) -> dict[str, str]:
    """Options as the environment variables that they stand over."""
    from cachd.settings import variable_name, walk_fields  # noqa: PLC0415

    overlay: dict[str, str] = {}
    known = {".".join(path): variable_name(path) for path, _, _ in walk_fields()}
    for item in arguments.set:
        name, equals, value = item.partition("=")
        if not equals or name.strip() not in known:
            raise ConfigInvalid(
                f"--set {name}: no such setting" if equals else f"--set {name}: no value",
                field=name,
                hint="write --set NAME=VALUE, such as fetch.connections=32; see docs/settings.md",
            )
        overlay[known[name.strip()]] = value
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
            overlay[known[name]] = value
    if arguments.json and not arguments.log_format:
        overlay[known["log.format"]] = "json"
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
    """Plain types for YAML: settings have string types of their own."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    return (
        int(value)
        if isinstance(value, int)
        else float(value)
        if isinstance(value, float)
        else str(value)
    )
