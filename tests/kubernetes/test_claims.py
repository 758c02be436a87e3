"""Destinations and sockets by claims, with fsGroup."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest

from tests.kubernetes.conftest import NewPod
from tests.kubernetes.pods import SOCKETS, kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

BODY = random.Random(4).randbytes(1 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()


def claim(release: Release, namespace: str, name: str, path: str) -> None:
    """A claim in ``namespace`` bound to a volume of its own that is a directory of the node."""
    volume = f"{namespace}-{name}"
    shared: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    release.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                **shared,
                "capacity": {"storage": "1Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": namespace, "name": name},
                "hostPath": {"path": path, "type": "Directory"},
            },
        }
    )
    release.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                **shared,
                "volumeName": volume,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
        namespace,
    )


def test_fs_group_leaves_the_daemons_directories_alone(
    release: Release, origin: CountingOrigin, new_pod: NewPod, namespace: str
) -> None:
    """The socket by a claim, as namespaces get it where hostPath is refused in pods."""
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    claim(release, namespace, "cachd-socket", SOCKETS)
    item = kserve_pod("p", f"{origin.url}/m/model.bin", "/mnt/models")
    item["spec"]["securityContext"] = {
        "fsGroup": 4242,
        "fsGroupChangePolicy": "OnRootMismatch",
        "runAsNonRoot": True,
    }
    for volume in item["spec"]["volumes"]:
        if volume["name"] == "cachd":
            del volume["hostPath"]
            volume["persistentVolumeClaim"] = {"claimName": "cachd-socket"}
    node = release.cluster.path
    before = node(SOCKETS).stat(), node(f"{SOCKETS}/cachd.sock").stat()
    try:
        pod = new_pod(item).wait_running()
        assert pod.sha256("model.bin") == DIGEST
        after = node(SOCKETS).stat(), node(f"{SOCKETS}/cachd.sock").stat()
        for old, new in zip(before, after, strict=True):
            assert (old.st_uid, old.st_gid, old.st_mode) == (new.st_uid, new.st_gid, new.st_mode)
        # The pod's own volume is of its group, and so is what the initializer wrote.
        assert pod.exec("stat", "-c", "%u:%g", "/mnt/models/model.bin").split() == ["1000:4242"]
    finally:
        release.cluster.kubectl("delete", "pv", f"{namespace}-cachd-socket", "--wait=false")


@pytest.mark.parametrize("medium", ["", "Memory"], ids=["disk", "memory"])
def test_an_empty_dir_with_fs_group(
    medium: str, release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    item = kserve_pod("p", f"{origin.url}/m/model.bin", "/mnt/models", uid=1337)
    item["spec"]["securityContext"] = {"fsGroup": 4242}
    item["spec"]["volumes"][0]["emptyDir"] = {"medium": medium}
    pod = new_pod(item).wait_running()
    assert pod.sha256("model.bin") == DIGEST
    assert pod.exec("stat", "-c", "%u:%g", "/mnt/models/model.bin").split() == ["1337:4242"]
