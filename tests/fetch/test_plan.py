"""The planner: parts and what is done cover each file exactly once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachd.fetch.filestate import FileState
from cachd.fetch.plan import done_blocks, plan_parts
from cachd.model import BLOCK_SIZE, PartDone, PlannedFile

SIZES = st.one_of(
    st.none(),
    st.just(0),
    st.integers(1, 5 * BLOCK_SIZE),
    st.integers(1, 6).map(lambda n: n * BLOCK_SIZE),
    st.integers(0, 1 << 45).map(lambda n: n % (64 * BLOCK_SIZE)),
)
FILES = st.lists(st.tuples(SIZES, st.booleans()), max_size=6).map(
    lambda rows: [
        PlannedFile(path=f"f{i}", url=f"http://x/f{i}", size=size, ranges=ranges)
        for i, (size, ranges) in enumerate(rows)
    ]
)
PART_SIZES = st.integers(1, 5 * BLOCK_SIZE)


def finish(file: PlannedFile, offset: int, length: int) -> PartDone:
    count = -(-length // BLOCK_SIZE)
    return PartDone(
        path=file.path, offset=offset, length=length, blocks=tuple("0" * 16 for _ in range(count))
    )


@given(files=FILES, part_size=PART_SIZES, data=st.data())
def test_parts_and_done_cover_each_byte_once(
    files: list[PlannedFile], part_size: int, data: st.DataObject
) -> None:
    everything = plan_parts(files, {}, part_size)
    kept = data.draw(
        st.lists(st.sampled_from(everything), unique=True) if everything else st.just([])
    )
    done: dict[str, list[PartDone]] = {}
    for part in kept:
        file = files[part.file]
        size = part.length if part.length is not None else (file.size or 12345)
        done.setdefault(file.path, []).append(finish(file, part.offset, size))
    left = plan_parts(files, done, part_size)
    for index, file in enumerate(files):
        mine = [p for p in left if p.file == index]
        ranges = [(p.offset, p.offset + p.length) for p in mine if p.length is not None]
        ranges += [(p.offset, p.offset + p.length) for p in done.get(file.path, [])]
        if file.size is None or not file.ranges:
            has = bool(done.get(file.path)) or file.size == 0
            assert [p.length for p in mine] == ([] if has else [None])
            continue
        ranges.sort()
        position = 0
        for start, end in ranges:
            assert start == position
            assert start % BLOCK_SIZE == 0
            assert end > start
            position = end
        assert position == file.size
    step = max(BLOCK_SIZE, part_size)
    assert all(p.length is None or p.length <= step for p in left)


@given(files=FILES, part_size=PART_SIZES, other=PART_SIZES)
def test_resuming_a_finished_plan_leaves_nothing(
    files: list[PlannedFile], part_size: int, other: int
) -> None:
    done: dict[str, list[PartDone]] = {}
    for part in plan_parts(files, {}, part_size):
        file = files[part.file]
        length = part.length if part.length is not None else (file.size or 777)
        done.setdefault(file.path, []).append(finish(file, part.offset, length))
    assert plan_parts(files, done, other) == []
    for index, file in enumerate(files):
        state = FileState.start(index, file, done.get(file.path, ()))
        assert state.has_all_blocks
        assert state.to_manifest().size == state.in_place


@given(
    size=st.integers(1, 4 * BLOCK_SIZE),
    entries=st.lists(
        st.tuples(
            st.integers(-BLOCK_SIZE, 5 * BLOCK_SIZE),
            st.integers(-1, 5 * BLOCK_SIZE),
            st.integers(0, 5),
        ),
        max_size=8,
    ),
)
def test_a_journal_that_lies_is_no_harm(size: int, entries: list[tuple[int, int, int]]) -> None:
    file = PlannedFile(path="f", url="http://x/f", size=size)
    done = [
        PartDone(path="f", offset=offset, length=length, blocks=("0" * 16,) * count)
        for offset, length, count in entries
    ]
    blocks = done_blocks(size, done)
    assert all(0 <= index * BLOCK_SIZE < size for index in blocks)
    parts = plan_parts([file], {"f": done}, BLOCK_SIZE)
    assert {p.offset // BLOCK_SIZE for p in parts}.isdisjoint(blocks)
    assert len(parts) + len(blocks) == -(-size // BLOCK_SIZE)
