"""A real daemon on a root in which one kind of file is damaged: it starts, and the models come."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.damage import DAMAGES, KINDS
from tests.crash.scenarios import mid_part
from tests.crash.world import BIG, world

# The worst of each: what is no JSON, what is other JSON, what breaks recursion.
CASES = [
    ("manifest", "deep object"),
    ("manifest", "numbers for all"),
    ("content", "half"),
    ("current", "garbage"),
    ("current", "directory"),
    ("journal", "zeroed"),
    ("journal", "texts for all"),
    ("lease", "ttl"),
    ("lease", "directory"),
    ("pin", "garbage"),
    ("lock", "garbage"),
    ("layout", "half"),
]


QUICK = [("manifest", "deep object"), ("lease", "ttl")]


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id=" ".join(case))
        for case in CASES
    ],
)
def test_the_daemon_starts_and_serves(tmp_path: Path, kind: str, damage: str) -> None:
    with world(tmp_path) as made:
        made.begin()
        mid_part(made)
        made.put("big", {"big.bin": BIG["big.bin"][:100_000]})
        made.daemon.start()
        made.pull("big")
        made.daemon.kill()
        for path in sorted(made.daemon.root.glob(KINDS[kind])):
            if path.is_file():
                DAMAGES[damage](path)
        if kind in ("manifest", "content", "lease"):
            made.kept = ""  # what was kept is what is damaged
        made.daemon.start()
        made.check()
        for name in ("big", "m", "keep"):
            made.pull(name)
        made.check()
        assert "Traceback" not in made.daemon.log()
