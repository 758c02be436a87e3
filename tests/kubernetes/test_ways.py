"""A pod whose init container brings the model, by each way; and nobody changes the cache."""

from __future__ import annotations

import hashlib
import random

import pytest

from tests.kubernetes.conftest import NewPod
from tests.kubernetes.pods import Way, kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

BODY = random.Random(1).randbytes(3 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()


def check(way: Way, release: Release, origin: CountingOrigin, new_pod: NewPod) -> None:
    """Two pods, one download, and nothing but the model in each."""
    release.daemon()
    path = f"/{way}/model.bin"
    origin.bodies[path] = BODY
    uri = f"{origin.url}{path}"
    pods = [new_pod(kserve_pod(f"p{number}", uri, "/mnt/models", way=way)) for number in range(2)]
    for pod in pods:
        pod.wait_running()
        assert pod.sha256("model.bin") == DIGEST
        assert f"; {way} in" in pod.log(), pod.log()
        assert pod.exec("ls", "-A", "/mnt/models").split() == ["model.bin"]
    assert origin.sent[path] == len(BODY)


@pytest.mark.parametrize("way", ["descriptor", "copy", "view"])
def test_a_pod_gets_its_model(
    way: Way, release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    check(way, release, origin, new_pod)


def test_a_pod_gets_its_model_as_a_stream(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    with release.changed({"cache": {"descriptors": False}}):
        check("stream", release, origin, new_pod)
