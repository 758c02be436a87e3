"""kill -9 of the real daemon while it finds damage, and while it repairs it for somebody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.world import NEW, OLD, PART, World, world
from tests.disk import flip

pytestmark = pytest.mark.slow

STEPS = [
    "repair marked",
    "repair copied",
    "synced",
    "repair renamed",
    "repair relinked",
    "repair unmarked",
]


def corrupt(made: World) -> float:
    return made.daemon.metric("cachd_corrupt_snapshots")


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path: Path, step: str) -> None:
    with world(tmp_path, SCRUB_INTERVAL="0", SCRUB_RATE="0") as made:
        made.begin()
        made.put("m", OLD)
        first = made.pull("m", lease={"holder": "pod", "ttl": 3600})
        made.put("m", NEW)
        answer = made.pull("m")
        places = [Path(found["path"], "w.bin") for found in (first, answer)]
        # Both revisions have the very same file.
        assert len({place.stat().st_ino for place in places}) == 1
        flip(places[0], PART + 5)
        verify = f"/v1/models/{answer['key']}/verify"
        if step == "repair marked":
            made.daemon.arm(step)
            made.admin_in_vain("POST", verify, {})
            made.daemon.wait_death()
        else:
            assert not made.daemon.admin("POST", verify, {}).json()["ok"]
            assert corrupt(made) == 2
            made.die_at(step)
        made.daemon.start()
        bad = [place for place in places if place.read_bytes() != OLD["w.bin"]]
        assert len(bad) in ((0, 2) if step != "repair renamed" else (1,))
        assert corrupt(made) >= (len(bad) if step != "repair marked" else 1)
        made.daemon.admin("POST", verify, {})
        sent = made.origin.sent.total()
        made.pull("m")
        assert made.origin.sent.total() - sent <= PART
        assert places[1].read_bytes() == NEW["w.bin"]
        if step == "repair renamed":
            # Only the revision that was asked for; the source has left the other one behind.
            assert places[0].read_bytes() != OLD["w.bin"]
            assert corrupt(made) == 1
            return
        assert corrupt(made) == 0
        made.check()
