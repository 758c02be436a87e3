"""Others fill the volume that the cache shares with kubelet: idle models go before kubelet's
thresholds are reached; what is leased stays; nothing goes in vain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cachd.settings import KubeletSettings
from tests.filesystems.conftest import is_right, names, pull
from tests.filesystems.volumes import MIB
from tests.harness import eventually

pytestmark = pytest.mark.slow

PERCENT = 1.28 * MIB
"""One hundredth of the volume of 128 MiB."""


def test_the_floor_is_the_largest_threshold_and_the_margin():
    assert KubeletSettings().floor(1000) == 0
    assert KubeletSettings().inode_floor(1000) == 0
    both = KubeletSettings(nodefs_available="10%", imagefs_available="15%", nodefs_inodes_free="5%")
    assert both.floor(1000) == 180
    assert both.inode_floor(1000) == 60
    assert KubeletSettings(nodefs_available="2GiB", margin="1GiB").floor(10 << 30) == 3 << 30


def _kubelet(**more: str) -> dict[str, str]:
    return {
        "STORE_KUBELET_EVICTION_NODEFS_AVAILABLE": "10%",
        "STORE_KUBELET_EVICTION_IMAGEFS_AVAILABLE": "15%",
        "STORE_MIN_IDLE": "0",
        "STORE_WATCH_INTERVAL": "10",
        **more,
    }


def test_idle_models_go_before_kubelet_would_evict_pods(make_volume, serve, origin):
    volume = make_volume("tmpfs", 128 * MIB)
    daemon = serve(volume, **_kubelet())
    leased = pull(daemon, origin, "leased", 12 * MIB, lease={"holder": "pod"})
    for name in ("a", "b", "c"):
        assert pull(daemon, origin, name, 12 * MIB)["status"] == 200
    usage = daemon.admin("GET", "/v1/models").json()["store"]
    assert abs(usage["free_floor"] - 18 * PERCENT) < MIB
    # The oldest goes as soon as the floor is touched, the others stay.
    volume.fill(leave=int(17 * PERCENT))
    eventually(lambda: names(daemon) == {"leased", "b", "c"})
    # What goes is out of the list before its bytes are free, and they count for what comes now.
    eventually(lambda: volume.free > 25 * PERCENT)
    # All that is idle isn't enough: what is leased stays, and it is said.
    volume.fill(leave=MIB)
    eventually(lambda: names(daemon) == {"leased"} and volume.free > 18 * PERCENT)
    volume.fill(leave=MIB)
    eventually(lambda: daemon.metric("cachd_store_degraded", reason="below_floor") == 1)
    assert names(daemon) == {"leased"}
    assert is_right(leased, origin, "leased")
    (volume.path / "neighbour").unlink()
    eventually(lambda: daemon.metric("cachd_store_degraded", reason="below_floor") == 0)


@pytest.mark.parametrize("how", ["open", "link"])
def test_nothing_more_goes_when_evicting_frees_nothing(make_volume, serve, origin, how):
    volume = make_volume("tmpfs", 128 * MIB)
    daemon = serve(volume, **_kubelet())
    held = []
    for name in ("a", "b", "c"):
        answer = pull(daemon, origin, name, 12 * MIB)
        path = Path(answer["path"], f"{name}.bin")
        if how == "open":
            held.append(os.open(path, os.O_RDONLY))
        else:
            (volume.path / name).hardlink_to(path)
    try:
        volume.fill(leave=int(17 * PERCENT))
        eventually(lambda: daemon.metric("cachd_store_degraded", reason="eviction_paused") == 1)
        assert names(daemon) == {"b", "c"}
    finally:
        for fd in held:
            os.close(fd)


def test_inodes_count_as_well(make_volume, serve, origin):
    volume = make_volume("ext4", 48 * MIB)
    daemon = serve(volume, **_kubelet(STORE_KUBELET_EVICTION_NODEFS_INODES_FREE="5%"))
    leased = pull(daemon, origin, "leased", MIB, lease={"holder": "pod"})
    assert pull(daemon, origin, "idle", MIB)["status"] == 200
    crowd = volume.path / "crowd"
    crowd.mkdir()
    number = 0
    while (found := os.statvfs(volume.path)).f_favail > found.f_files * 0.055:
        (crowd / str(number)).touch()
        number += 1
    eventually(lambda: names(daemon) == {"leased"})
    assert is_right(leased, origin, "leased")
