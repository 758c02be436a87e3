"""What rows say of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.disk import tree_of
from tests.harness import Daemon, Reply


def given(reply: Reply, tree: dict[str, bytes]) -> dict[str, Any]:
    """The answer of an ask that gave exactly ``tree``."""
    answer: dict[str, Any] = reply.json()
    assert reply.status == 200, answer
    found = tree_of(Path(answer["path"]))
    assert sorted(found) == sorted(tree)
    assert [name for name in found if found[name] != tree[name]] == []
    return answer


def refused(reply: Reply, *codes: str) -> dict[str, Any]:
    """The problem of an ask that failed in one of these ways, with something to do next."""
    answer: dict[str, Any] = reply.json()
    assert answer.get("code") in codes, answer
    assert answer["detail"]
    assert answer["hint"]
    return answer


def published(daemon: Daemon) -> set[str]:
    return {"/".join(path.parts[-2:]) for path in (daemon.root / "snapshots").glob("*/*")}
