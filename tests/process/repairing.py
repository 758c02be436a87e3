"""Damage on the disk, and what a test asks about its repair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.harness import Daemon, eventually
from tests.origins.fault import FaultOrigin, pattern

BLOCK = 8 << 20
SIZE = 3 * BLOCK + 1000
MODEL = pattern(SIZE, 7)


def pull(daemon: Daemon, source: FaultOrigin, **body: Any) -> dict[str, Any]:
    reply = daemon.ask(source.url("/m.bin"), **body)
    return {"status": reply.status, **reply.json()}


def verify(daemon: Daemon, key: str | None = None, **body: Any) -> dict[str, Any]:
    target = f"/v1/models/{key}/verify" if key else "/v1/verify"
    reply = daemon.admin("POST", target, body)
    assert reply.status == 200, reply.body
    return reply.json()


def ranges(source: FaultOrigin, since: int) -> list[str]:
    """What was asked for with bodies (a source's own look is a HEAD or one byte)."""
    found = [seen for seen in source.seen[since:] if seen.method == "GET"]
    wanted = [seen.headers.get("range", "all") for seen in found]
    return sorted(w for w in wanted if w not in ("bytes=0-0",))


def disk(root: Path) -> int:
    """Allocated bytes of what the cache holds, each inode once."""
    seen: dict[int, int] = {}
    for place in ("snapshots", "ingest", "trash"):
        for top in (root / place).iterdir():
            inner = top.iterdir() if place == "snapshots" else [top]
            for tree in inner:
                for path in [tree, *tree.rglob("*")]:
                    status = path.lstat()
                    seen[status.st_ino] = status.st_blocks * 512
    for path in (root / "quarantine").iterdir():
        for each in [path, *path.rglob("*")]:
            seen[each.lstat().st_ino] = each.lstat().st_blocks * 512
    return sum(seen.values())


def allocated(daemon: Daemon) -> int:
    return daemon.admin("GET", "/v1/models").json()["store"]["allocated"]


def assert_accounts(daemon: Daemon) -> None:
    eventually(lambda: not list((daemon.root / "trash").iterdir()))
    eventually(lambda: allocated(daemon) == disk(daemon.root))
