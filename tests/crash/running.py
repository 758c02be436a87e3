"""One case of the matrix: crash, start, look, ask again, look again."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.crash.scenarios import LIMITS, OTHER_BOOT, SPOILT, Case
from tests.crash.world import World, world

_BOOTS = itertools.count(1)


@dataclass(frozen=True)
class Result:
    """``again``: bytes that the origin sent more than once. ``problem`` "" where all held."""

    case: Case
    published: str
    again: int
    problem: str


def run(case: Case) -> Result:
    """Never raises for what the daemon did wrong: that is the result's ``problem``."""
    home = Path(tempfile.mkdtemp(prefix="cachd-crash-"))
    try:
        with world(home) as made:
            try:
                published, again = _go_through(made, case)
            except Exception as error:
                return Result(case, "?", -1, f"{type(error).__name__}: {error}"[:2000])
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return Result(case, published, again, _judge(case, published, again))


def _go_through(made: World, case: Case) -> tuple[str, int]:
    made.begin()
    case.die(made)
    if not case.lives:
        if case.fault in (OTHER_BOOT, SPOILT):
            made.daemon.boot = f"another-boot-{next(_BOOTS)}"
        if case.fault == SPOILT:
            made.spoil_a_block()
        made.daemon.start()
    made.check()
    published = made.published("m")
    made.pull(case.name)
    made.check()
    assert made.ask(case.name).json()["result"] == "hit"
    return published, _sent_again(made)


def _sent_again(made: World) -> int:
    """Object bytes sent, less those that each state of each model needs once."""
    needed = {}
    for uri, states in made.known.items():
        name = uri.removeprefix("s3://bucket")
        for state in states:
            for path, data in state.items():
                needed[f"/bucket{name}/{path}", data] = len(data)
    paths = {path for path, _ in needed}
    sent = sum(made.origin.sent[path] for path in paths)
    unasked = sum(
        len(data)
        for (path, data) in needed
        if made.origin.sent[path] < len(data) and path.startswith("/bucket/big/")
    )
    return sent - sum(needed.values()) + unasked


def _judge(case: Case, published: str, again: int) -> str:
    if published != case.published:
        return f"{published} was published, not {case.published}"
    least, most = LIMITS[case.again]
    if not least <= again <= most:
        return f"{again} bytes were fetched again, not {case.again} ({least} to {most})"
    return ""
