"""What the chart does beside the daemon: helm's own test, claims of namespaces, cleaning up."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.cluster import until
from tests.kubernetes.conftest import NewPod, NewRelease
from tests.kubernetes.pods import kserve_pod
from tests.process.origin import CountingOrigin


def test_a_release_from_its_first_test_to_its_last_file(
    namespace: str, origin: CountingOrigin, new_pod: NewPod, new_release: NewRelease
) -> None:
    kept = new_release("kept", {"namespaces": [{"name": namespace}]})
    cluster = kept.cluster
    assert "Succeeded" in cluster.helm("test", kept.name, "-n", kept.namespace)

    # A pod without any hostPath.
    origin.bodies["/m/model.bin"] = b"weights"
    item: dict[str, Any] = kserve_pod("p", f"{origin.url}/m/model.bin", "/mnt/models")
    (socket,) = [v for v in item["spec"]["volumes"] if v["name"] == "cachd"]
    del socket["hostPath"]
    socket["persistentVolumeClaim"] = {"claimName": "kept-socket", "readOnly": True}
    pod = new_pod(item)
    assert pod.wait_running().read("model.bin") == b"weights"

    root = cluster.path(kept.cache)
    assert (root / "snapshots").is_dir()
    kept.upgrade({"cleanUp": {"enabled": True}})
    until(lambda: not list(root.iterdir()), "nothing is left of the cache")
    assert not list(cluster.path(kept.sockets).glob("*.sock"))
    assert pod.read("model.bin") == b"weights", "a copy is the pod's own"
    kept.uninstall()
