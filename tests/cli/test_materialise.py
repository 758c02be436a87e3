"""The ways of materialising on real file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cachd.cli import copying, places
from cachd.cli.client import Client
from cachd.cli.manifest import fetch_wanted
from cachd.cli.materialise import Materialised, Materialiser
from cachd.cli.progress import Display
from cachd.cli.staging import Staging
from cachd.cli.workers import run_all
from cachd.errors import Cancelled, DestinationUnusable, NoSpace, PathUnsafe, SizeMismatch
from tests.cli.fake_daemon import FakeDaemon
from tests.servers.require import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

URI = "s3://bucket/model"
FILES = {"config.json": b"{}", "a/weights.bin": os.urandom(5_000_000)}


def ask(daemon: FakeDaemon, destination: Path) -> Materialised:
    client = Client(daemon.socket)
    answer = list(client.events("/v1/models", {"uri": URI}))[-1]
    run = Materialiser(client, answer, destination, Display(quiet=True))
    return run.already_there() or run.run(fetch_wanted(client, answer, blocks=False))


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that can share extents."""
    if os.getuid() != 0:
        pytest.skip("mounting a loop device needs root")
    if not shutil.which("mkfs.xfs"):
        missing("mkfs.xfs (Debian: xfsprogs)")
    base = tmp_path_factory.mktemp("xfs")
    image, point = base / "image", base / "mnt"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * 1024 * 1024)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(point)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no loop mount here: {mounted.stderr.decode().strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def xfs_daemon(xfs: Path, tmp_path: Path) -> Iterator[FakeDaemon]:
    root = xfs / tmp_path.name
    root.mkdir()
    fake = FakeDaemon(root / "cache", tmp_path / "cachd.sock")
    fake.start()
    yield fake
    fake.stop()
    shutil.rmtree(root)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on tmpfs."""
    shm = Path("/dev/shm")
    if places.file_system(shm) != "tmpfs" or not os.access(shm, os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    directory = shm / f"cachd-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def test_reflink_on_xfs(xfs_daemon: FakeDaemon, xfs: Path) -> None:
    xfs_daemon.add(URI, FILES)
    destination = xfs_daemon.root.parent / "dest"
    done = ask(xfs_daemon, destination)
    assert done.way == "reflink"
    assert {p: (destination / p).read_bytes() for p in FILES} == FILES
    # A private copy: writing into it changes nothing in the cache.
    with (destination / "a/weights.bin").open("r+b") as file:
        file.write(b"changed")
    model = next(iter(xfs_daemon.models.values()))
    assert (model.tree / "a/weights.bin").read_bytes() == FILES["a/weights.bin"]


def test_a_reflink_needs_no_space(xfs_daemon: FakeDaemon) -> None:
    big = {"big.bin": os.urandom(1024 * 1024) * 120}
    xfs_daemon.add(URI, big)
    for name in ("one", "two", "three", "four"):
        assert ask(xfs_daemon, xfs_daemon.root.parent / name).way == "reflink"


def test_across_file_systems_it_is_a_copy(
    xfs_daemon: FakeDaemon, memory: Path, tmp_path: Path
) -> None:
    xfs_daemon.add(URI, FILES)
    assert ask(xfs_daemon, memory / "d").way == "copy"
    assert ask(xfs_daemon, tmp_path / "d").way == "copy"
    assert (memory / "d" / "a/weights.bin").read_bytes() == FILES["a/weights.bin"]


def test_a_destination_in_memory_is_said(daemon: FakeDaemon, memory: Path) -> None:
    daemon.add(URI, FILES)
    done = ask(daemon, memory / "d")
    assert done.way == "copy"
    assert "is in memory" in done.notes[0]


def test_a_file_that_differs_in_size_is_streamed(daemon: FakeDaemon, tmp_path: Path) -> None:
    model = daemon.add(URI, FILES)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(model.tree, elsewhere)
    (elsewhere / "a/weights.bin").write_bytes(b"half")
    client = Client(daemon.socket)
    answer = list(client.events("/v1/models", {"uri": URI}))[-1]
    run = Materialiser(
        client, {**answer, "path": str(elsewhere)}, tmp_path / "d", Display(quiet=True)
    )
    done = run.run(fetch_wanted(client, answer, blocks=False))
    assert done.way == "stream+copy"
    assert (tmp_path / "d" / "a/weights.bin").read_bytes() == FILES["a/weights.bin"]


def test_no_space(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="for the model's"):
        places.check_space(tmp_path, 2**60, 0)
    assert places.check_space(tmp_path, 1, 0)
    assert not places.check_space(tmp_path, 2**60, 2**60)


def test_a_full_destination_is_found_before_the_first_byte(
    xfs_daemon: FakeDaemon, tmp_path: Path, xfs: Path
) -> None:
    other = FakeDaemon(tmp_path / "root", tmp_path / "other.sock")
    other.start()
    try:
        other.add(URI, {"big.bin": bytes(500 * 1024 * 1024)})
        with pytest.raises(NoSpace):
            ask(other, xfs_daemon.root.parent / "d")
        assert not (xfs_daemon.root.parent / "d").exists()
    finally:
        other.stop()


def test_files_are_replaced_one_by_one_where_space_is_short(
    xfs_daemon: FakeDaemon, tmp_path: Path
) -> None:
    other = FakeDaemon(tmp_path / "root", tmp_path / "other.sock")
    other.start()
    destination = xfs_daemon.root.parent / "d"
    files = {f"{i}.bin": os.urandom(1024 * 1024) * 25 for i in range(8)}
    try:
        other.add(URI, files)
        assert ask(other, destination).way == "copy"
        assert ask(other, destination).way == "copy"
        assert all((destination / name).read_bytes() == data for name, data in files.items())
    finally:
        other.stop()


def test_the_memory_limit(tmp_path: Path) -> None:
    """Of cgroups of version 2, else of version 1, which has a number for no limit."""
    v2, v1 = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    assert places.memory_limit(v2, v1) is None
    v1.write_text("9223372036854771712\n")
    assert places.memory_limit(v2, v1) is None
    v1.write_text("536870912\n")
    assert places.memory_limit(v2, v1) == 512 * 1024**2
    v2.write_text("max\n")
    assert places.memory_limit(v2, v1) is None
    v2.write_text("1073741824\n")
    assert places.memory_limit(v2, v1) == 1024**3


def test_more_than_the_memory_limit_is_refused(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "memory_limit", lambda: 1000)
    with pytest.raises(NoSpace, match="memory limit"):
        places.check_memory(memory, 1001)
    assert places.check_memory(memory, 999) is not None


def test_file_system_takes_the_deepest_mount() -> None:
    mounts = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:5 / /mnt rw shared:1 - xfs /dev/b rw\n"
        "3 1 0:6 / /mnt/with\\040space rw - tmpfs none rw\n"
    )
    assert places.file_system(Path("/mntx"), mounts) == "ext4"
    assert places.file_system(Path("/mnt/a"), mounts) == "xfs"
    assert places.file_system(Path("/mnt/with space/b"), mounts) == "tmpfs"
    assert places.file_system(Path("/mnt"), "nonsense") == ""


@pytest.mark.parametrize("way", ["_by_copy_file_range", "_by_sendfile", "_by_hand"])
def test_every_copy_falls_back_to_the_next(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["_by_copy_file_range", "_by_sendfile", "_by_hand"]

    def refuse(*arguments: object) -> int:
        raise OSError(38, "Function not implemented")

    for name in names[: names.index(way)]:
        monkeypatch.setattr(copying, name, refuse)
    data = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(data)
    ticks: list[int] = []
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("w+b") as target:
        copying.copy(
            source.fileno(), target.fileno(), len(data), "a", ticks.append, threading.Event()
        )
        with pytest.raises(SizeMismatch):
            copying.copy(
                source.fileno(),
                target.fileno(),
                len(data) + 1,
                "a",
                ticks.append,
                threading.Event(),
            )
    assert (tmp_path / "b").read_bytes() == data


def test_a_copy_stops(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    (tmp_path / "a").write_bytes(b"x")
    with (
        (tmp_path / "a").open("rb") as source,
        (tmp_path / "b").open("w+b") as target,
        pytest.raises(Cancelled),
    ):
        copying.copy(source.fileno(), target.fileno(), 1, "a", lambda n: None, stop)


def test_the_first_failure_stops_the_others() -> None:
    stop = threading.Event()
    ran: list[int] = []

    def call(number: int) -> None:
        ran.append(number)
        if number == 1:
            raise ValueError("first")
        stop.wait(10)

    with pytest.raises(ValueError, match="first"):
        run_all([lambda n=n: call(n) for n in range(50)], 2, stop)  # type: ignore[misc]
    assert len(ran) <= 3


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\0b", ".cachd-pull-x/a"]
)
def test_paths_that_leave_are_refused(path: str, tmp_path: Path) -> None:
    with Staging(tmp_path / "d") as staging, pytest.raises(PathUnsafe), staging.create(path):
        pass
    assert not (tmp_path / "d").exists()


def test_a_link_in_the_destination_is_replaced_not_followed(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.json").symlink_to(victim)
    ask(daemon, tmp_path / "d")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "d" / "config.json").is_symlink()


def test_a_bind_mount_of_the_cache_is_the_cache(daemon: FakeDaemon, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("a bind mount needs root")
    model = daemon.add(URI, FILES)
    point = tmp_path / "mnt"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "--bind", str(model.tree), str(point)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no bind mounts here")
    try:
        assert ask(daemon, point).way == "already-there"
        with pytest.raises(DestinationUnusable, match="the cache itself"):
            ask(daemon, point / "sub")
    finally:
        subprocess.run(["umount", str(point)], check=True)
