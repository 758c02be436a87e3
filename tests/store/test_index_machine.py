"""Accounting, eviction, pins, leases and reservations against a model that counts naively."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from cachd.model import Ref
from cachd.store import eviction
from cachd.store.eviction import Limits
from cachd.store.index import Index
from cachd.store.rows import Row
from cachd.store.types import SnapshotInfo

QUOTA = 1000
VOLUME = 1500
FLOOR = 100
KEYS = ("a", "b", "c", "d")


@dataclass(eq=False)
class Thing:
    """What the naive model knows of a row: its own bytes, and inodes it may share."""

    row: Row
    own: int
    files: dict[int, int] = field(default_factory=dict)
    state: str = "ingest"
    planned: int = 0
    leases: int = 0
    used: int = 0

    @property
    def held(self) -> int:
        return self.own + sum(self.files.values())

    @property
    def reserved(self) -> int:
        return max(0, self.planned - self.held) if self.state == "ingest" else 0


def info(key: str) -> SnapshotInfo:
    return SnapshotInfo(
        ref=Ref(uri=f"s3://b/{key}", origin="s3", key=key),
        files=1,
        bytes=1,
        created="",
        source="s3",
        is_credentialed=False,
        is_validated=True,
        is_immutable=False,
        identity="anonymous",
    )


def on_disk(things: list[Thing]) -> int:
    inodes: dict[int, int] = {}
    for thing in things:
        inodes.update(thing.files)
    return sum(thing.own for thing in things) + sum(inodes.values())


class StoreMachine(RuleBasedStateMachine):
    ingests = Bundle("ingests")
    snapshots = Bundle("snapshots")

    @initialize()
    def start(self) -> None:
        self.index = Index()
        self.things: list[Thing] = []
        self.pins: set[str] = set()
        self.current: dict[str, Thing] = {}
        self.tick = 0
        self.revision = 0
        self.inode = 0
        self.foreign = 0

    # --- the naive model ----------------------------------------------------------------------

    def charged(self) -> int:
        return on_disk(self.things) + sum(thing.reserved for thing in self.things)

    def limits(self) -> Limits:
        return Limits(
            quota=QUOTA,
            volume_size=VOLUME,
            free=VOLUME - self.foreign - on_disk(self.things),
            floor=FLOOR,
            free_inodes=10**6,
            inode_floor=0,
        )

    def is_safe(self, thing: Thing) -> bool:
        is_pinned = thing.row.key in self.pins and self.current.get(thing.row.key) is thing
        is_writing = thing.state == "ingest" and thing.row.is_active
        return bool(thing.leases or is_pinned or is_writing)

    def use(self, thing: Thing) -> None:
        self.tick += 1
        thing.used = self.tick
        self.index.touch(thing.row, self.tick, float(self.tick))

    def find(self, row: Row) -> Thing:
        return next(thing for thing in self.things if thing.row is row)

    # --- what callers do ----------------------------------------------------------------------

    @rule(
        target=ingests,
        key=st.sampled_from(KEYS),
        size=st.integers(1, 700),
        donor=st.none() | snapshots,
    )
    def begin(self, key: str, size: int, donor: Thing | None) -> Thing:
        self.revision += 1
        row = Row(key=key, revision=str(self.revision), info=info(key), state="ingest")
        row.is_active = True
        self.index.add(row, {})
        thing = Thing(row, 0)
        self.things.append(thing)
        self.use(thing)
        if donor is not None and donor in self.things:
            for inode, held in donor.files.items():
                if thing.held + held <= size:
                    thing.files[inode] = held
                    self.index.take_over(row, inode, held, [donor.row])
        self.index.settle(row)
        thing.planned = thing.held
        self.reserve(thing, size - thing.held)
        return thing

    def reserve(self, thing: Thing, needed: int) -> None:
        before = self.charged()
        limits = self.limits()
        decision = eviction.make_room(self.index, limits, needed=needed, for_row=thing.row)
        plan = eviction.explain(self.index, limits, decision, needed, 0)
        victims = [self.find(row) for row, _, _ in decision.rows]
        assert all(not self.is_safe(victim) for victim in victims)
        assert thing not in victims
        if not decision.fits:
            # Even if everything that may go went, it would not do.
            idle = [t for t in self.things if not self.is_safe(t) and t is not thing]
            left = [t for t in self.things if t not in idle]
            promised = sum(t.reserved for t in left)
            assert (
                on_disk(left) + promised + needed > QUOTA
                or VOLUME - self.foreign - on_disk(left) - promised - needed < FLOOR
            )
            assert plan.shortfall > 0 or needed > limits.ceiling
            return
        for victim in victims:
            # Each is needed: without it there would be too little room.
            left = [t for t in self.things if t not in victims or t is victim]
            left = [t for t in left if t.state != "trash"]
            promised = sum(t.reserved for t in left)
            assert (
                on_disk(left) + promised + needed > QUOTA
                or VOLUME - self.foreign - on_disk(left) - promised - needed < FLOOR
            )
        self.index.reserve(thing.row, needed, 0)
        thing.planned += needed
        freed = sum(size for _, _, size in decision.rows)
        self.let_go(victims)
        self.empty_trash()
        assert self.charged() <= before + needed
        assert self.charged() <= QUOTA
        outstanding = sum(t.reserved for t in self.things)
        assert VOLUME - self.foreign - on_disk(self.things) - outstanding >= FLOOR
        assert freed >= 0

    @rule(thing=ingests, size=st.integers(1, 300))
    def grow(self, thing: Thing, size: int) -> None:
        if thing.state == "ingest" and thing.row.is_active:
            self.reserve(thing, size)

    @rule(thing=ingests, share=st.floats(0, 1))
    def write(self, thing: Thing, share: float) -> None:
        """A writer takes some of what it was promised, never more."""
        if thing.state == "ingest" and thing.row.is_active:
            size = int(thing.reserved * share)
            thing.own += size
            self.index.grew(thing.row, size)

    @rule(thing=ingests)
    def suspend(self, thing: Thing) -> None:
        if thing.state == "ingest" and thing.row.is_active:
            thing.row.is_active = False
            thing.planned = thing.held
            self.index.settle(thing.row)

    @rule(thing=consumes(ingests))
    def abort(self, thing: Thing) -> None:
        if thing.state == "ingest":
            self.let_go([thing])

    @rule(target=snapshots, thing=consumes(ingests), pieces=st.integers(0, 3))
    def commit(self, thing: Thing, pieces: int) -> Thing:
        if thing.state != "ingest" or not thing.row.is_active:
            return thing
        for _ in range(pieces):
            self.inode += 1
            size = thing.own // (pieces + 1)
            thing.own -= size
            thing.files[self.inode] = size
        thing.state, thing.planned = "snapshot", 0
        row = thing.row
        self.index.publish(row, row.info, thing.held, 1 + len(thing.files), thing.files)
        self.index.set_current(row)
        self.current[row.key] = thing
        self.use(thing)
        return thing

    @rule(
        target=snapshots,
        key=st.sampled_from(KEYS),
        size=st.integers(1, 400),
        donor=st.none() | snapshots,
        pieces=st.integers(1, 3),
    )
    def arrive(self, key: str, size: int, donor: Thing | None, pieces: int) -> Thing:
        """A whole life at once, so that snapshots that share are frequent."""
        thing = self.begin(key, size, donor)
        self.write(thing, 1.0)
        return self.commit(thing, pieces)

    @rule(thing=snapshots)
    def touch(self, thing: Thing) -> None:
        if thing.state == "snapshot":
            self.use(thing)

    @rule(thing=snapshots)
    def lease(self, thing: Thing) -> None:
        if thing.state == "snapshot":
            thing.leases += 1
            thing.row.leases += 1

    @rule(thing=snapshots)
    def release(self, thing: Thing) -> None:
        if thing.state == "snapshot" and thing.leases:
            thing.leases -= 1
            thing.row.leases -= 1

    @rule(key=st.sampled_from(KEYS))
    def toggle_pin(self, key: str) -> None:
        self.pins ^= {key}
        self.index.pins ^= {key}

    @rule(foreign=st.integers(0, 600))
    def others_write(self, foreign: int) -> None:
        free = VOLUME - on_disk(self.things)
        self.foreign = min(foreign, free)

    @rule()
    def background_round(self) -> None:
        decision = eviction.in_background(
            self.index, self.limits(), high=900, low=600, idle_since=float(self.tick - 2)
        )
        victims = [self.find(row) for row, _, _ in decision.rows]
        assert all(not self.is_safe(victim) for victim in victims)
        assert all(victim.used <= self.tick - 2 for victim in victims)
        kept = [thing for thing in self.things if thing.state != "trash"]
        lasting = on_disk(kept) + sum(thing.reserved for thing in kept)
        self.let_go(victims)
        self.empty_trash()
        if decision.fits and lasting > 900:
            assert self.charged() <= 600

    @rule(target_bytes=st.integers(0, QUOTA))
    def collect(self, target_bytes: int) -> None:
        decision = eviction.down_to(self.index, target_bytes)
        victims = [self.find(row) for row, _, _ in decision.rows]
        assert all(not self.is_safe(victim) for victim in victims)
        self.let_go(victims)
        self.empty_trash()
        if decision.fits:
            assert self.charged() <= target_bytes

    def let_go(self, victims: list[Thing]) -> None:
        expected = on_disk([t for t in self.things if t.state == "trash" or t in victims])
        for victim in victims:
            self.index.condemn(victim.row, "somewhere")
            victim.state, victim.planned = "trash", 0
            if self.current.get(victim.row.key) is victim:
                del self.current[victim.row.key]
        assert on_disk([t for t in self.things if t.state == "trash"]) == expected

    @rule()
    def empty_trash(self) -> None:
        for thing in [t for t in self.things if t.state == "trash"]:
            before, left = on_disk(self.things), [t for t in self.things if t is not thing]
            assert self.index.marginal([thing.row])[0] == before - on_disk(left)
            self.index.discard(thing.row)
            self.things.remove(thing)

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def sums_are_those_of_the_naive_model(self) -> None:
        assert self.index.allocated == on_disk(self.things)
        assert self.index.reserved == sum(thing.reserved for thing in self.things)
        assert self.index.sums() == self.index.recount()

    @invariant()
    def the_table_holds_just_what_is_shared(self) -> None:
        holders: dict[int, set[int]] = {}
        for thing in self.things:
            for inode in thing.files:
                holders.setdefault(inode, set()).add(id(thing.row))
        expected = {inode: rows for inode, rows in holders.items() if len(rows) > 1}
        assert {i: {id(r) for r in e.rows} for i, e in self.index.table.items()} == expected

    @invariant()
    def only_the_living_are_found(self) -> None:
        living = {t.row.revision for t in self.things if t.state == "snapshot"}
        assert {revision for _, revision in self.index.snapshots} == living
        for key in KEYS:
            row = self.index.current(key)
            assert (row is not None) == (key in self.current)
            assert {r.revision for r in self.index.revisions(key)} == {
                t.row.revision for t in self.things if t.state == "snapshot" and t.row.key == key
            }

    @precondition(lambda self: self.things)
    @invariant()
    def all_that_is_idle_frees_its_marginal_bytes(self) -> None:
        idle = [t for t in self.things if not self.is_safe(t)]
        left = [t for t in self.things if self.is_safe(t)]
        expected = on_disk(self.things) - on_disk(left)
        assert self.index.marginal(t.row for t in idle)[0] == expected


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
