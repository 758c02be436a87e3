"""Ways in which a file may come back wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]


def _half(path: Path) -> None:
    data = path.read_bytes()
    _write(path, data[: len(data) // 2])


def _write(path: Path, data: bytes) -> None:
    """In place, for other names of a file see it as well."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(data)


def _instead(data: bytes) -> Damage:
    return lambda path: _write(path, data)


def _zeroed(path: Path) -> None:
    _write(path, bytes(path.stat().st_size))


def _each(value: Any) -> Damage:
    """Every leaf of the JSON replaced; of a journal, in every line."""

    def swap(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: swap(item) for key, item in data.items()}
        if isinstance(data, list):
            return [swap(item) for item in data] or value
        return value

    def damage(path: Path) -> None:
        lines = path.read_bytes().splitlines()
        try:
            changed = [json.dumps(swap(json.loads(line))).encode() for line in lines]
        except ValueError:
            changed = [json.dumps(value).encode()]
        _write(path, b"\n".join(changed) + b"\n")

    return damage


def _one(name: str, value: Any) -> Damage:
    """One field of the first line replaced, where it is there."""

    def damage(path: Path) -> None:
        first, _, rest = path.read_bytes().partition(b"\n")
        try:
            data = json.loads(first)
            data[name] = value
        except (ValueError, TypeError):
            data = {name: value}
        _write(path, json.dumps(data).encode() + b"\n" + rest)

    return damage


def _directory(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def _removed(path: Path) -> None:
    path.unlink()


DAMAGES: dict[str, Damage] = {
    "half": _half,
    "empty": _instead(b""),
    "zeroed": _zeroed,
    "garbage": _instead(bytes(range(256)) * 20),
    "deep": _instead(b"[" * 200_000),
    "deep object": _instead(b'{"a":' * 200_000),
    "a list": _instead(b"[1, 2]\n"),
    "a number": _instead(b"7\n"),
    "null": _instead(b"null\n"),
    "too many digits": _instead(b'{"format": ' + b"9" * 10_000 + b"}\n"),
    "numbers for all": _each(1 << 70),
    "negative numbers for all": _each(-1),
    "texts for all": _each("\udc80\0../x"),
    "nulls for all": _each(None),
    "lists for all": _each([[]]),
    "infinity for all": _each(float("inf")),
    "files 7": _one("files", 7),
    "files of lists": _one("files", [[], [1], {}]),
    "ref 7": _one("ref", 7),
    "format 99": _one("format", 99),
    "ttl": _one("ttl", 10**400),
    "key": _one("key", ["x"]),
    "version": _one("version", "x"),
    "directory": _directory,
    "removed": _removed,
}

KINDS: dict[str, str] = {
    "manifest": "snapshots/*/*/manifest.json",
    "content": "snapshots/*/*/tree/*",
    "current": "current/*",
    "journal": "ingest/*/journal",
    "lease": "state/leases/*",
    "pin": "state/pins/*",
    "blob": "blobs/sha256/*",
    "marker": "snapshots/*/*/corrupt.json",
    "scrub": "state/scrub.json",
    "lock": "daemon.lock",
    "story": "quarantine/*/story.json",
    "trash": "trash/*/manifest.json",
    "layout": "layout.json",
}
