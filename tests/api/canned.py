"""Answers of a MemoryCache that are always the same."""

from __future__ import annotations

from typing import Any

from tests.api.snapshots import REVISION


def plan(*, is_hit: bool, needed: int | None) -> dict[str, Any]:
    victim = {
        "key": "0" * 16,
        "revision": REVISION,
        "uri": "s3://b/old",
        "bytes": 7,
        "last_used": 1.5,
        "reason": "quota",
    }
    return {
        "result": "hit" if is_hit else "miss",
        "fits": True,
        "needed": needed or 0,
        "free": 100,
        "quota": 1000,
        "free_floor": 100,
        "allocated": 900,
        "reserved": 0,
        "evict": [victim],
        "shortfall": 0,
        "held_by": [],
    }


def verification(key: str | None, *, repair: bool, rate: int | None) -> list[dict[str, Any]]:
    sums = {"snapshots": 1, "bytes": 5, "bad_blocks": 1, "corrupt": 0, "repaired_blocks": 1}
    finding = {
        "key": key or "0" * 16,
        "revision": "aa",
        "uri": "s3://bucket/m",
        "state": "repaired" if repair else "corrupt",
        "bytes": 5,
        "bad_blocks": 1,
        "repaired_blocks": int(repair),
        "files": [
            {
                "path": "w",
                "problem": "blocks",
                "blocks": [0],
                "ranges": [{"offset": 0, "length": 5}],
                "repaired": repair,
            }
        ],
        "extra": [],
        "has_strangers": False,
        "reason": "" if repair else f"told not to, at {rate}",
    }
    names = {name: finding[name] for name in ("key", "revision", "uri")}
    return [
        {"event": "checking", **names, "total": 5},
        {"event": "checked", **finding},
        {"event": "ready", "ok": repair, **sums, "findings": [finding]},
    ]


def verdict(verb: str, uri: str | None) -> dict[str, Any]:
    return {
        "verb": verb,
        "uri": uri,
        "allowed": True,
        "rule": None,
        "reason": "no rule matches",
        "identity": False,
        "open_hits": False,
    }
