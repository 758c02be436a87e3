"""Others fill the volume while a model is fetched: idle models go and the fetch goes on, or it ends
cleanly and says who holds what; when there is room again nothing has to be restarted."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

from tests.filesystems.conftest import ask_in_background, is_right, journalled, names, pull, ready
from tests.filesystems.volumes import MIB
from tests.harness import eventually

SIZE = 24 * MIB


def test_idle_models_go_and_nothing_is_fetched_twice(make_volume, serve, origin):
    volume, size = make_volume("tmpfs", 128 * MIB), 48 * MIB
    daemon = serve(
        volume,
        FETCH_PART_SIZE="8MiB",
        FETCH_CONNECTIONS_PER_ORIGIN="2",
        STORE_WATCH_INTERVAL="60",
    )
    assert pull(daemon, origin, "idle", size)["status"] == 200
    leased = pull(daemon, origin, "leased", 8 * MIB, lease={"holder": "pod"})
    origin.bodies["/new.bin"] = os.urandom(size)
    origin.hold(30 * MIB)
    thread, answer = ask_in_background(daemon, origin, "new")
    assert origin.held.wait(60)
    volume.fill()
    origin.release()
    thread.join(60)
    assert answer["status"] == 200, answer
    assert is_right(answer, origin, "new")
    assert is_right(leased, origin, "leased")
    assert names(daemon) == {"leased", "new"}
    # Of a range that met the full disk the blocks in place stay; the rest of its block, and what
    # was on the way, is asked for again: less than two blocks for two connections.
    assert origin.sent["/new.bin"] - size <= 2 * 8 * MIB
    assert daemon.metric("cachd_disk_errors_total", errno="enospc") >= 1
    assert daemon.metric("cachd_evictions_total", reason="volume") == 1
    assert ready(daemon)["ready"]


def test_with_all_leased_it_says_who_holds_what_and_resumes_later(make_volume, serve, origin):
    volume = make_volume("tmpfs", 64 * MIB)
    daemon = serve(volume, FETCH_PART_SIZE="8MiB", FETCH_CONNECTIONS_PER_ORIGIN="1")
    leased = pull(daemon, origin, "leased", 8 * MIB, lease={"holder": "pod"})
    origin.bodies["/new.bin"] = os.urandom(SIZE)
    origin.hold(12 * MIB)
    thread, answer = ask_in_background(daemon, origin, "new")
    assert origin.held.wait(60)
    eventually(lambda: journalled(daemon) == 1)
    neighbour = volume.fill()
    origin.release()
    thread.join(60)
    assert answer["status"] == 507
    assert answer["code"] in ("no_space", "disk_full")
    assert (answer["mount_point"], answer["device"]) == (str(volume.path), volume.device)
    assert answer["needed"] > 0
    assert answer["free"] < 8 * MIB
    held = {holder["what"]: holder for holder in answer["held_by"]}
    assert held["lease"]["key"] == leased["key"]
    assert held["others"]["bytes"] >= 8 * MIB
    assert is_right(leased, origin, "leased")
    eventually(lambda: daemon.metric("cachd_store_degraded", reason="disk_full") == 1)
    assert ready(daemon)["ready"]
    assert str(volume.path) in " ".join(ready(daemon)["degraded"])
    neighbour.unlink()
    eventually(lambda: daemon.metric("cachd_store_degraded", reason="disk_full") == 0)
    before = origin.sent["/new.bin"]
    again = pull(daemon, origin, "new")
    assert again["status"] == 200
    assert is_right(again, origin, "new")
    assert origin.sent["/new.bin"] - before <= SIZE - 8 * MIB


def test_an_archive_is_unpacked_again_where_something_could_go(make_volume, serve, origin):
    volume = make_volume("tmpfs", 96 * MIB)
    daemon = serve(volume, STORE_WATCH_INTERVAL="60")
    assert pull(daemon, origin, "idle", 24 * MIB)["status"] == 200
    packed, content = io.BytesIO(), os.urandom(16 * MIB)
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("weights")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    origin.bodies["/m.tar"] = packed.getvalue()
    origin.hold(8 * MIB)
    answer: dict = {}

    def ask() -> None:
        reply = daemon.ask(f"{origin.url}/m.tar")
        answer.update({"status": reply.status, **reply.json()})

    thread = threading.Thread(target=ask)
    thread.start()
    assert origin.held.wait(60)
    # Enough for the rest of the archive, and not for what is in it.
    volume.fill(leave=17 * MIB)
    origin.release()
    thread.join(60)
    assert answer["status"] == 200, answer
    assert Path(answer["path"], "weights").read_bytes() == content
    assert origin.sent["/m.tar"] <= len(packed.getvalue()) + 4 * MIB
    assert "idle" not in names(daemon)


def test_a_quota_of_the_file_system_is_met_like_a_full_disk(make_volume, serve, origin):
    """EDQUOT by a btrfs quota group, which statvfs doesn't tell of."""
    from tests.filesystems.volumes import run

    volume = make_volume("btrfs", 256 * MIB)
    run("btrfs", "subvolume", "create", volume.root)
    run("btrfs", "quota", "enable", volume.path)
    run("btrfs", "qgroup", "limit", "48M", volume.root)
    daemon = serve(volume, STORE_WATCH_INTERVAL="60")
    leased = pull(daemon, origin, "leased", 8 * MIB, lease={"holder": "pod"})
    assert pull(daemon, origin, "idle", 16 * MIB)["status"] == 200
    answer = pull(daemon, origin, "new", 26 * MIB)
    assert answer["status"] == 200, answer
    assert is_right(answer, origin, "new")
    assert names(daemon) == {"leased", "new"}
    assert daemon.metric("cachd_disk_errors_total", errno="edquot") >= 1
    refused = pull(daemon, origin, "huge", 46 * MIB)
    assert (refused["status"], refused["code"]) == (507, "disk_full")
    assert refused["errno"] == "EDQUOT"
    assert is_right(leased, origin, "leased")


@pytest.mark.parametrize("kind", ["ext4"])
def test_a_volume_without_inodes_is_full_as_well(make_volume, serve, origin, kind):
    volume = make_volume(kind, 32 * MIB)
    daemon = serve(volume, STORE_WATCH_INTERVAL="60")
    assert pull(daemon, origin, "idle", MIB)["status"] == 200
    crowd = volume.path / "crowd"
    crowd.mkdir()
    number = 0
    while os.statvfs(volume.path).f_favail > 2:
        (crowd / str(number)).touch()
        number += 1
    answer = pull(daemon, origin, "new", MIB)
    assert answer["status"] == 200, answer
    assert names(daemon) == {"new"}
