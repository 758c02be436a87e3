"""A pod whose init container brings the model, by each way."""

from __future__ import annotations

import hashlib
import random

import pytest

from tests.kubernetes.conftest import NewPod
from tests.kubernetes.pods import kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

BODY = random.Random(1).randbytes(3 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize(
    ("way", "with_cache"), [("stream", False), ("copy", True)], ids=["stream", "copy"]
)
def test_a_pod_gets_its_model(
    way: str, with_cache: bool, release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    pods = [
        new_pod(kserve_pod(f"p{number}", f"{origin.url}/m/model.bin", "/mnt/models",
                           with_cache=with_cache))
        for number in range(2)
    ]  # fmt: skip
    for pod in pods:
        pod.wait_running()
        assert pod.sha256("model.bin") == DIGEST
        assert f"; {way} in" in pod.log()
        assert pod.exec("ls", "-A", "/mnt/models").split() == ["model.bin"]
    assert origin.sent["/m/model.bin"] == len(BODY)
