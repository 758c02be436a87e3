"""Power loss: the file system of the root is shut down under the running daemon (nothing that isn't
on its disk then ever will be), the process killed, the volume mounted anew, which replays its log.

What an asker was told is published is there and right; nothing partial is visible; what is resumed
is verified by checksums, so that the model that comes out is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.loop import LoopVolume, loop_volume
from tests.crash.world import BIG, MIB, NEW, OLD, World, world

KINDS = ["xfs", "ext4"]
BEGIN = ["journal", "laid out", "recorded"]
COMMIT = ["manifest", "synced", "renamed", "parents", "current", "shared"]
REMOVAL = ["condemned", "trashed", "emptied", "unlinked"]


@pytest.fixture(params=KINDS)
def volume(request: pytest.FixtureRequest) -> Iterator[LoopVolume]:
    with loop_volume(request.param) as made:
        yield made


@pytest.fixture
def powered(volume: LoopVolume, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path / "home", volume.point / "root") as made:
        yield made


def come_back(world: World, volume: LoopVolume) -> None:
    """Another boot, after the log was replayed."""
    volume.unmount()
    volume.mount()
    world.daemon.boot = "after-the-power-loss"
    world.daemon.start()
    # A file system that comes back after this may hold other blocks than it said before.
    world.check(exact=False)


def in_a_first_fetch(world: World, step: str) -> None:
    world.put("m", OLD)
    world.die_at(step, 3 if step == "recorded" else 1, deed="power")


def in_an_update(world: World, step: str) -> None:
    world.put("m", OLD)
    world.pull("m")
    world.put("m", NEW)
    world.die_at(step, deed="power")


def in_an_eviction(world: World, step: str) -> None:
    world.put("m", OLD)
    world.pull("m")
    world.put("big", {**BIG, "more.bin": BIG["big.bin"][: 12 * MIB]})
    world.die_at(step, name="big", deed="power")


def prove(world: World, volume: LoopVolume, die: Callable[[World, str], None], step: str) -> None:
    world.begin()
    die(world, step)
    come_back(world, volume)
    published = world.published("m")
    if die is in_an_update:
        assert published in (("old", "new") if step in COMMIT[2:] else ("old",))
    elif die is in_a_first_fetch:
        assert published in (("none", "old") if step in COMMIT[2:] else ("none",))
    if die is in_an_update and step == "shared":
        assert published == "new"  # ``current`` was on the disk
    world.pull("big" if die is in_an_eviction else "m")
    world.check(exact=False)


@pytest.mark.parametrize("step", ["renamed"])
def test_power_is_lost_in_an_update(powered: World, volume: LoopVolume, step: str) -> None:
    prove(powered, volume, in_an_update, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", BEGIN + COMMIT)
def test_power_is_lost_in_a_first_fetch(powered: World, volume: LoopVolume, step: str) -> None:
    prove(powered, volume, in_a_first_fetch, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["linked", *(s for s in COMMIT if s != "renamed")])
def test_power_is_lost_in_an_update_at(powered: World, volume: LoopVolume, step: str) -> None:
    prove(powered, volume, in_an_update, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", REMOVAL)
def test_power_is_lost_in_an_eviction(powered: World, volume: LoopVolume, step: str) -> None:
    prove(powered, volume, in_an_eviction, step)


@pytest.mark.slow
def test_power_is_lost_right_after_the_answer(powered: World, volume: LoopVolume) -> None:
    """Who was answered finds the model, the pin and the lease after the next boot."""
    powered.begin()
    powered.put("m", OLD)
    powered.pull("m")
    volume.lose_power()
    powered.daemon.kill()
    come_back(powered, volume)
    assert powered.published("m") == "old"
    sent = powered.origin.sent.total()
    powered.pull("m")
    assert powered.origin.sent.total() == sent


@pytest.mark.slow
def test_power_is_lost_in_mid_part(powered: World, volume: LoopVolume) -> None:
    powered.begin()
    powered.put("m", OLD)
    powered.origin.hold(after=17 * MIB)
    powered.ask_in_vain("m")
    powered.wait_mid_part()
    volume.lose_power()
    powered.daemon.kill()
    powered.origin.release()
    come_back(powered, volume)
    assert powered.published("m") == "none"
    powered.pull("m")
    powered.check(exact=False)
