"""What pods notice when the daemon or its node goes, and comes back."""

from __future__ import annotations

import hashlib
import random

import pytest

from tests.kubernetes.cluster import until
from tests.kubernetes.conftest import NewPod
from tests.kubernetes.pods import INITIALIZER, SERVER, Way, environment, kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

BODY = random.Random(3).randbytes(24 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()
PART = 8 << 20
"""The least, for parts are whole blocks."""


@pytest.mark.parametrize("way", ["descriptor", "view"])
def test_forced_deletion_of_the_daemon_with_two_pods_alive(
    way: Way, release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    release.daemon()
    pods = [new_pod(kserve_pod(f"p{number}", uri, "/mnt/models", way=way)) for number in range(2)]
    for pod in pods:
        pod.wait_running()
    before = release.daemon()
    leased = release.cachd("pull", uri, "--lease-ttl", "600", "--holder", "case")
    before.delete()
    after = until(lambda: [pod for pod in release.pods() if pod.uid != before.uid], "a new daemon")
    for pod in pods:
        assert pod.sha256("model.bin") == DIGEST
    assert release.daemon().uid == after[0].uid
    held = str(release.cachd("show", uri))
    assert leased["lease"]["holder"] in held, "the lease is kept"
    if way == "view":
        assert release.views().keys() >= {pod.uid for pod in pods}, "views are kept"
    for pod in pods:
        assert pod.sha256("model.bin") == DIGEST
    third = new_pod(kserve_pod("p2", uri, "/mnt/models", way=way)).wait_running()
    assert third.sha256("model.bin") == DIGEST
    assert origin.sent["/m/model.bin"] == len(BODY)


@pytest.mark.parametrize("way", ["descriptor", "view"])
def test_a_pod_keeps_its_revision_and_a_new_one_gets_the_next(
    way: Way, release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    """Also when its server is started again."""
    release.daemon()
    origin.bodies["/m/model.bin"] = b"first"
    uri = f"{origin.url}/m/model.bin"
    old = new_pod(kserve_pod("old", uri, "/mnt/models", way=way)).wait_running()
    origin.bodies["/m/model.bin"] = b"second"
    new = new_pod(kserve_pod("new", uri, "/mnt/models", way=way)).wait_running()
    assert (old.read("model.bin"), new.read("model.bin")) == (b"first", b"second")
    old.wait_restarted(SERVER, old.kill(SERVER))
    assert old.read("model.bin") == b"first"


@pytest.mark.parametrize("way", ["descriptor", "view"])
def test_a_reboot(way: Way, release: Release, origin: CountingOrigin, new_pod: NewPod) -> None:
    """All containers, mounts, cgroups and /run are gone; the pods are the same afterwards. A view
    keeps its revision although its initializer runs again. (The kernel's boot id stays.)"""
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    daemon = release.daemon()
    pods = [new_pod(kserve_pod(f"p{number}", uri, "/mnt/models", way=way)) for number in range(2)]
    for pod in pods:
        pod.wait_running()
    if way == "view":
        origin.bodies["/m/model.bin"] = b"moved on"
    names = {daemon: "cachd", **dict.fromkeys(pods, SERVER)}
    before = {pod: pod.running(name) for pod, name in names.items()}
    release.cluster.stop_node()
    assert not release.cluster.path("/run/cachd").exists(), "what was in memory is gone"
    release.cluster.start_node()
    for pod, name in names.items():
        pod.wait_restarted(name, before[pod], 180)
    for pod in pods:
        assert pod.sha256("model.bin") == DIGEST
        assert pod.exec("ls", "-A", "/mnt/models").split() == ["model.bin"]
    assert release.daemon().uid == daemon.uid
    assert origin.sent["/m/model.bin"] == len(BODY)


def test_an_upgrade_in_mid_pull_and_its_rollback(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    body = BODY * 3
    with release.changed({"config": {"fetch": {"part_size": PART, "connections": 2}}}):
        for number, change in enumerate(("upgrade", "rollback")):
            path = f"/m{number}/model.bin"
            origin.bodies[path] = body
            origin.hold(after=len(body) // 2)
            patience = environment(CACHD_WAIT_DAEMON="120")
            item = kserve_pod(f"p{number}", f"{origin.url}{path}", "/mnt/models", env=patience)
            pod = new_pod(item)
            assert origin.held.wait(60), pod.story()
            before = release.daemon()
            if change == "upgrade":
                release.upgrade({"podAnnotations": {"case": "upgrade"}}, wait=False)
            else:
                release.rollback(wait=False)
            before.wait_gone(90)
            origin.release()
            pod.wait_running()
            assert pod.sha256("model.bin") == hashlib.sha256(body).hexdigest()
            assert pod.status(INITIALIZER)["restartCount"] == 0, pod.log(previous=True)
            assert release.daemon().uid != before.uid
            assert origin.sent[path] <= len(body) + 2 * PART, "only parts in flight again"
