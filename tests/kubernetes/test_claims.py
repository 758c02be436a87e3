"""Sockets, views and destinations in volumes that a pod's fsGroup applies to."""

from __future__ import annotations

import hashlib
import random

import pytest

from tests.kubernetes.conftest import NewPod, NewRelease
from tests.kubernetes.pods import Way, kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

BODY = random.Random(4).randbytes(1 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("way", ["descriptor", "view"])
def test_fs_group_leaves_the_daemons_directories_alone(
    way: Way, origin: CountingOrigin, new_pod: NewPod, new_release: NewRelease, namespace: str
) -> None:
    """By the claims that the chart gives to namespaces where pods may have no hostPath."""
    team = new_release("team", {"namespaces": [{"name": namespace, "views": True}]})
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    item = kserve_pod("p", uri, "/mnt/models", way=way, sockets=team.sockets, cache=team.cache)
    item["spec"]["securityContext"] = {
        "fsGroup": 4242,
        "fsGroupChangePolicy": "OnRootMismatch",
        "runAsNonRoot": True,
    }
    claims = {team.sockets: "team-socket", f"{team.cache}/views": "team-views"}
    for volume in item["spec"]["volumes"]:
        if "hostPath" in volume:
            name = claims[volume.pop("hostPath")["path"]]
            volume["persistentVolumeClaim"] = {"claimName": name}
    places = [team.cluster.path(place) for place in (*claims, f"{team.sockets}/cachd.sock")]
    before = [place.stat() for place in places]
    pod = new_pod(item).wait_running()
    assert pod.sha256("model.bin") == DIGEST
    for old, new in zip(before, [place.stat() for place in places], strict=True):
        assert (old.st_uid, old.st_gid, old.st_mode) == (new.st_uid, new.st_gid, new.st_mode)
    # What the initializer wrote is of the pod's group; a view is the daemon's.
    owner = pod.exec("stat", "-c", "%u:%g", "/mnt/models/model.bin").strip()
    assert owner == ("10001:10001" if way == "view" else "1000:4242")


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
