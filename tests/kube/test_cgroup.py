"""Pods by their cgroups: what the kernel writes, and whole trees of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.kube.cgroup import PodCgroups, pod_in, pod_of_cgroups, pods_of_tree
from tests.kube.host import Host

UID = "0f8b3c2a-1111-4222-8333-944444444444"
NEXT = "1f8b3c2a-1111-4222-8333-944444444444"
SLICE = UID.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"
CONTAINER = "c" * 64


@pytest.mark.parametrize(
    ("text", "uid"),
    [
        (f"0::/kubepods/besteffort/pod{UID}/{CONTAINER}\n", UID),
        (f"0::/kubepods/pod{UID}/{CONTAINER}\n", UID),
        (
            (
                "0::/kubepods.slice/kubepods-burstable.slice/"
                f"kubepods-burstable-pod{SLICE}.slice/cri-containerd-{CONTAINER}.scope\n"
            ),
            UID,
        ),
        (f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/crio-{CONTAINER}.scope/container\n", UID),
        (f"0::/../../pod{UID}/{CONTAINER}\n", UID),
        (f"0::/../cri-containerd-{CONTAINER}.scope\n", ""),
        (f"12:memory:/kubepods/burstable/pod{UID}/{CONTAINER}\n0::/\n", UID),
        (f"3:cpu,cpuacct:/\n2:name=systemd:/kubepods/pod{UID}/{CONTAINER}\n", UID),
        (f"0::/cachd-kubernetes/kubepods/besteffort/pod{UID}/{CONTAINER}\n", UID),
        (f"0::/kubepods/besteffort/pod{STATIC}/{CONTAINER}\n", STATIC),
        (
            (
                f"0::/docker/{CONTAINER}/kubelet.slice/kubelet-kubepods.slice/"
                f"kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{SLICE}.slice/"
                f"cri-containerd-{CONTAINER}.scope\n"
            ),
            UID,
        ),
        # A node that is a pod's container: the pod inside counts.
        (f"0::/kubepods/pod{NEXT}/{CONTAINER}/kubepods/burstable/pod{UID}/{CONTAINER}\n", UID),
        ("0::/user.slice/user-1000.slice/session-1.scope\n", ""),
        ("0::/podman-123.scope\n", ""),
        ("0::/podruntime.slice/kubelet.service\n", ""),
        ("0::/machine.slice/libpod-abc.scope/container\n", ""),
        ("0::/\n", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_what_the_kernel_writes(text: str, uid: str) -> None:
    assert pod_of_cgroups(text) == uid


@given(st.text())
def test_whatever_is_written_is_a_uid_or_nothing(text: str) -> None:
    found = pod_of_cgroups(text)
    assert found == "" or len(found) in (32, 36)


@given(st.uuids(), st.sampled_from(["", "burstable", "besteffort"]), st.booleans())
def test_both_drivers_name_the_same_pod(uid: object, quality: str, is_systemd: bool) -> None:
    text = str(uid)
    if is_systemd:
        prefix = f"kubepods-{quality}-" if quality else "kubepods-"
        name = f"{prefix}pod{text.replace('-', '_')}.slice"
    else:
        name = f"pod{text}"
    assert pod_in(name) == text


async def look(provider: PodCgroups, uid: str = UID) -> str:
    return (await provider.look(frozenset({uid})))[uid]


async def test_a_pod_lives_as_long_as_its_cgroup(tmp_path: Path) -> None:
    host = Host(tmp_path)
    made = host.cgroup(f"kubepods/burstable/pod{UID}")
    provider = host.provider()
    await provider.start()
    assert await look(provider) == "alive"
    assert await look(provider, NEXT) == "gone"
    assert await provider.find(NEXT) == "gone"
    made.rmdir()
    assert await look(provider) == "gone"
    assert provider.complaint() == ""


async def test_a_pod_lives_as_long_as_its_processes(tmp_path: Path) -> None:
    """Where only the host's processes can be seen, not its cgroups."""
    host = Host(tmp_path)
    host.process(77, f"/kubepods/pod{UID}/{CONTAINER}")
    provider = host.provider()
    await provider.start()
    assert await look(provider) == "alive"
    assert await provider.pod_of(77) == UID
    assert await provider.pod_of(78) == ""
    host.end(77)
    assert await look(provider) == "gone"


async def test_in_a_pid_namespace_of_its_own_the_daemon_knows_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, is_host=False)
    host.process(1, f"/kubepods/pod{NEXT}/{CONTAINER}")
    provider = host.provider(own=NEXT)
    await provider.start()
    assert await look(provider) == "unknown"
    assert await provider.find(UID) == "unknown"
    assert await provider.pod_of(0) == ""
    assert "hostPID" in provider.complaint()


async def test_a_node_that_is_a_container_is_a_host_as_well(tmp_path: Path) -> None:
    host = Host(tmp_path, is_host=False)
    host.process(1, f"/docker/{CONTAINER}/init.scope")
    host.process(50, f"/docker/{CONTAINER}/kubelet.slice/kubelet-kubepods-pod{SLICE}.slice/x.scope")
    provider = host.provider(own=NEXT)
    await provider.start()
    assert await look(provider) == "alive"
    assert provider.complaint() == ""
    host.end(50)
    assert await look(provider) == "gone"


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_cgroups_are_searched(tmp_path: Path, version: int) -> None:
    root = tmp_path
    if version == 2:
        (root / "cgroup.controllers").write_text("cpu memory")
        (root / "memory").mkdir()
    place = root / "memory" if version == 1 else root
    for path in (
        f"kubepods/burstable/pod{UID}/{CONTAINER}",
        f"a/b/kubepods.slice/kubepods-pod{NEXT.replace('-', '_')}.slice",
        "user.slice/podman-1.scope",
    ):
        (place / path).mkdir(parents=True)
    assert pods_of_tree(root) == {UID, NEXT}


async def test_this_machine_can_be_looked_at() -> None:
    provider = PodCgroups(Path("/sys/fs/cgroup"))
    await provider.start()
    assert await provider.pod_of(os.getpid()) in (*provider._alive, "")
    assert set((await provider.look(frozenset({UID}))).values()) <= {"gone", "unknown"}
