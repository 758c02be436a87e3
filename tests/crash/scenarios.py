"""Each step at which the daemon dies, with what must be found at the next start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.crash.world import BIG, IN_FLIGHT, MIB, NEW, OLD, PART, World
from tests.harness import eventually

KILL = "kill -9"
OTHER_BOOT = "kill -9, other boot"
SPOILT = "kill -9, other boot, a block spoilt"
WORKER = "kill -9 of the worker"
AGAIN = "kill -9, and again in the resume"

NOTHING = "0"
FLYING = "≤ parts in flight"
ONE_PART = "1 part"
SPOILT_PART = "1 part + parts in flight"
WHOLE = "all: it was removed"
_SIZE = sum(map(len, OLD.values()))
LIMITS = {
    WHOLE: (_SIZE, _SIZE),
    NOTHING: (0, 0),
    FLYING: (0, IN_FLIGHT),
    ONE_PART: (PART, PART),
    SPOILT_PART: (PART, PART + IN_FLIGHT),
}
"""Bytes that were fetched again: least and most."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """``die`` brings a world to its crash. ``published``: what is current of the model afterwards.

    ``name`` is the model that is asked for then; ``again`` what the origin sends a second time.
    """

    during: str
    step: str
    fault: str
    die: Callable[[World], None]
    published: str
    again: str
    name: str = "m"
    lives: bool = False

    @property
    def id(self) -> str:
        return f"{self.during} / {self.step} / {self.fault}"


# --- ways to die ----------------------------------------------------------------------------------


def in_a_fetch(step: str, count: int = 1) -> Callable[[World], None]:
    def die(world: World) -> None:
        world.put("m", OLD)
        world.die_at(step, count)

    return die


def in_an_update(step: str, count: int = 1) -> Callable[[World], None]:
    def die(world: World) -> None:
        world.put("m", OLD)
        world.pull("m")
        world.put("m", NEW)
        world.die_at(step, count)

    return die


def mid_part(world: World) -> None:
    """Parts are under way, at least one is in the journal."""
    world.put("m", OLD)
    world.origin.hold(after=17 * MIB)
    world.ask_in_vain("m")
    world.wait_mid_part()
    world.daemon.kill()
    world.origin.release()


def suspended(world: World) -> None:
    world.put("m", OLD)
    world.origin.hold(after=17 * MIB)
    world.daemon.arm("suspended")
    world.ask_and_go("m")
    world.daemon.wait_death()
    world.origin.release()


def resuming(step: str, count: int = 1, boot: str = "") -> Callable[[World], None]:
    def die(world: World) -> None:
        mid_part(world)
        world.daemon.boot = boot
        world.daemon.start()
        world.die_at(step, count)

    return die


def kill_workers(world: World) -> None:
    world.put("m", OLD)
    world.origin.hold(after=17 * MIB)
    world.ask_in_vain("m")
    world.wait_mid_part()
    for worker in world.workers():
        os.kill(worker, signal.SIGKILL)
    world.origin.release()
    eventually(lambda: world.published("m") != "none")


def evicting(step: str) -> Callable[[World], None]:
    """The quota holds one of the two models."""

    def die(world: World) -> None:
        world.put("m", OLD)
        world.pull("m")
        world.put("big", {**BIG, "more.bin": BIG["big.bin"][: 12 * MIB]})
        world.die_at(step, name="big")

    return die


def collecting(step: str) -> Callable[[World], None]:
    """A superseded revision, half of whose bytes the current one shares."""

    def die(world: World) -> None:
        world.put("m", OLD)
        world.pull("m")
        world.put("m", NEW)
        world.pull("m")
        world.daemon.arm(step)
        world.admin_in_vain("POST", "/v1/gc", {})
        world.daemon.wait_death()

    return die


def removing(step: str) -> Callable[[World], None]:
    def die(world: World) -> None:
        world.put("m", OLD)
        key = world.pull("m")["key"]
        world.daemon.arm(step)
        world.admin_in_vain("DELETE", f"/v1/models/{key}")
        world.daemon.wait_death()

    return die


def keeping(step: str) -> Callable[[World], None]:
    def die(world: World) -> None:
        world.put("m", OLD)
        answer = world.pull("m", lease={"holder": "another"})
        pin = f"/v1/models/{answer['key']}/pin"
        leases = f"/v1/models/{answer['key']}/leases"
        if step == "pin removed":
            assert world.daemon.admin("PUT", pin).status == 200
        world.daemon.arm(step)
        if step.startswith("pin"):
            world.admin_in_vain("PUT" if step == "pin written" else "DELETE", pin)
        elif step == "lease written":
            world.admin_in_vain("POST", leases, {"holder": "a third"})
        else:
            world.admin_in_vain("DELETE", f"{leases}/{answer['lease']['id']}")
        world.daemon.wait_death()

    return die


def starting(step: str) -> Callable[[World], None]:
    """A first crash that leaves one of everything, and a second one while starting."""

    def die(world: World) -> None:
        world.put("m", OLD)
        world.pull("m")
        world.put("big", BIG)
        world.origin.hold(after=17 * MIB)
        world.ask_in_vain("big")
        world.wait_mid_part()
        world.put("m", NEW)
        world.origin.release()
        world.die_at("renamed")
        litter(world)
        world.daemon.arm(step)
        world.daemon.start(wait=False)
        world.daemon.wait_death()

    return die


def litter(world: World) -> None:
    """What kills at other instants leave: halves of snapshots and ingests, temporary files."""
    root = world.daemon.root
    (root / "snapshots" / "ab" / "cd" / "tree").mkdir(parents=True)
    (root / "snapshots" / "ab" / "cd" / "tree" / "half").write_bytes(b"x" * 50_000)
    (root / "ingest" / "ab-ce" / "tree").mkdir(parents=True)
    (root / "ingest" / "ab-ce" / "journal").touch()
    (root / "trash" / "ab-cf-00").mkdir()
    (root / "trash" / "ab-cf-00" / "left").write_bytes(b"x" * 50_000)
    (root / "state" / "probe-killed").mkdir()
    (root / "blobs" / "probe-killed.tmp").touch()
    for place in ("current", "state/leases", "state/pins"):
        (root / place / "ab.tmp").write_bytes(b"cut sh")


# --- the table ------------------------------------------------------------------------------------

_COMMIT = ("manifest", "synced", "renamed", "parents", "current", "shared")
_REMOVAL = ("condemned", "trashed", "emptied", "unlinked")
_START = (
    "root prepared",
    "root locked",
    "capabilities probed",
    "snapshots scanned",
    "currents chosen",
    "ingests scanned",
    "state read",
    "taken up",
    "emptied",
    "unlinked",
)


def _rows(
    during: str,
    die: Callable[..., Callable[[World], None]],
    steps: dict[str, tuple[str, str]],
    faults: tuple[str, ...] = (KILL,),
    name: str = "m",
) -> Iterator[Case]:
    for step, (published, again) in steps.items():
        word, _, count = step.partition(" × ")
        for fault in faults:
            yield Case(
                during=during,
                step=step,
                fault=fault,
                die=die(word, int(count)) if count else die(word),
                published=published,
                again=again,
                name=name,
            )


def _table() -> Iterator[Case]:
    both = (KILL, OTHER_BOOT)
    fetch = {
        "journal": ("none", NOTHING),
        "laid out": ("none", NOTHING),
        "recorded × 2": ("none", FLYING),
        "recorded × 3": ("none", FLYING),
        **dict.fromkeys(_COMMIT[:2], ("none", NOTHING)),
        **dict.fromkeys(_COMMIT[2:], ("old", NOTHING)),
    }
    yield from _rows("first fetch", in_a_fetch, fetch, both)
    base = Case(
        during="first fetch",
        step="mid-part",
        fault=KILL,
        die=mid_part,
        published="none",
        again=FLYING,
    )
    yield base
    yield replace(base, fault=OTHER_BOOT)
    yield replace(base, fault=SPOILT, again=SPOILT_PART)
    yield replace(base, step="manifest", fault=SPOILT, die=in_a_fetch("manifest"), again=ONE_PART)
    yield replace(base, step="synced", fault=SPOILT, die=in_a_fetch("synced"), again=ONE_PART)
    yield replace(base, fault=WORKER, die=kill_workers, published="old", lives=True)
    yield replace(base, step="suspended", die=suspended)
    yield replace(base, step="suspended", fault=OTHER_BOOT, die=suspended)
    resume = dict.fromkeys(("journal", "laid out", "recorded × 1", "manifest"), ("none", FLYING))
    yield from _rows("resume", resuming, resume)
    yield replace(
        base,
        during="resume",
        step="verified",
        fault=OTHER_BOOT,
        die=resuming("verified", boot="between"),
    )
    update = {
        **dict.fromkeys(("journal", "linked", "laid out"), ("old", NOTHING)),
        "recorded × 1": ("old", FLYING),
        **dict.fromkeys(_COMMIT[:4], ("old", NOTHING)),
        **dict.fromkeys(_COMMIT[4:], ("new", NOTHING)),
    }
    yield from _rows("update", in_an_update, update, both)
    evict = {"condemned": "old", "trashed": "none", "emptied": "none", "unlinked": "none"}
    for step, published in evict.items():
        yield replace(
            base,
            during="eviction by quota",
            step=step,
            die=evicting(step),
            published=published,
            again=NOTHING,
            name="big",
        )
    for step in _REMOVAL:
        yield replace(
            base,
            during="collection of a superseded revision",
            step=step,
            die=collecting(step),
            published="new",
            again=NOTHING,
        )
    for step, published in evict.items():
        yield replace(
            base,
            during="removal",
            step=step,
            die=removing(step),
            published=published,
            again=WHOLE if published == "none" else NOTHING,
        )
    for step in ("lease written", "lease removed", "pin written", "pin removed"):
        yield replace(
            base,
            during="leases and pins",
            step=step,
            die=keeping(step),
            published="old",
            again=NOTHING,
        )
    for step in _START:
        yield replace(
            base,
            during="start after a crash",
            step=step,
            die=starting(step),
            published="old",
            again=NOTHING,
        )


CASES = tuple(_table())
