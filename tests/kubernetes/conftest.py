"""One cluster and one release for all cases; each case has a namespace of its own.

``CACHD_KUBERNETES_KEEP=1`` uses the cluster that runs, and leaves it running.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import ADDRESS, Cluster, until
from tests.kubernetes.pods import IMAGE, Pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

NewPod = Callable[..., Pod]
NewRelease = Callable[..., Release]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A node with its control plane, and our image on it."""
    is_kept = bool(os.environ.get("CACHD_KUBERNETES_KEEP"))
    node = Cluster.running()
    if node is not None and not is_kept:
        pytest.fail("a cluster runs already: end it with scripts/kubernetes/cluster down")
    try:
        node = node or Cluster.up()
        node.load(IMAGE)
        yield node
    finally:
        if not is_kept:
            Cluster.down()


@pytest.fixture(scope="session")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """The chart with our image, in the namespace cachd-system."""
    installed = Release(cluster, tmp_path_factory.mktemp("release"))
    if "cachd" in cluster.helm("list", "--short", "-n", installed.namespace).split():
        installed.uninstall()
    yield installed.install()
    installed.uninstall()


@pytest.fixture
def new_release(
    cluster: Cluster, new_namespace: Callable[[], str], tmp_path: Path
) -> Iterator[NewRelease]:
    """Installs the chart once more, with a name, directories and values of its own."""
    made: list[Release] = []

    def install(name: str, values: dict[str, Any], where: str = "") -> Release:
        made.append(Release(cluster, tmp_path, name, where or new_namespace(), values))
        return made[-1].install()

    yield install
    for item in made:
        if item.name in cluster.helm("list", "--short", "-n", item.namespace).split():
            item.uninstall()
    for item in made:
        item.wait_gone()
        for path in (item.cache, item.sockets, f"{item.sockets}-admin"):
            shutil.rmtree(cluster.path(path), ignore_errors=True)


@pytest.fixture
def origin(cluster: Cluster) -> Iterator[CountingOrigin]:
    """An HTTP origin on the node's network that counts what it sends."""
    with cluster.network():
        server = CountingOrigin(host=ADDRESS)
    yield server
    server.close()


@pytest.fixture
def new_namespace(cluster: Cluster) -> Iterator[Callable[[], str]]:
    made: list[str] = []

    def create() -> str:
        made.append(f"case-{uuid.uuid4().hex[:8]}")
        item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made[-1]}}
        cluster.create(item)
        path = f"/api/v1/namespaces/{made[-1]}/serviceaccounts/default"
        until(lambda: cluster.api("GET", path, check=False), "the namespace has an account")
        return made[-1]

    yield create
    for name in made:
        cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(new_namespace: Callable[[], str]) -> str:
    """A namespace of the case's own."""
    return new_namespace()


@pytest.fixture
def new_pod(cluster: Cluster, namespace: str) -> Iterator[NewPod]:
    """Creates a pod; all of them are gone after the case."""
    made: list[Pod] = []

    def create(item: dict[str, Any], where: str = namespace) -> Pod:
        answer = cluster.create(item, where)["metadata"]
        made.append(Pod(cluster, where, answer["name"], answer["uid"]))
        return made[-1]

    yield create
    for pod in made:
        pod.delete()
    for pod in made:
        pod.wait_gone()
