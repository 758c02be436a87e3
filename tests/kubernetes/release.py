"""The chart, installed by helm with our own image."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.harness import call
from tests.kubernetes.cluster import ROOT, until
from tests.kubernetes.pods import Pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.cluster import Cluster

VALUES: dict[str, Any] = {
    "image": {"repository": "localhost/cachd", "tag": "test", "pullPolicy": "Never"},
    "prepareDirectories": {"enabled": True},
    "config": {
        # As in the node's kubelet.yaml.
        "store": {
            "free_floor": "1GiB",
            "kubelet_eviction": {"nodefs_available": "1Gi", "imagefs_available": "1Gi"},
        },
        # A moved ref is seen at once.
        "freshness": {"interval": 0},
    },
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``, section by section."""
    both = copy.deepcopy(base)
    for name, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = merged(both[name], value) if is_section else value
    return both


@dataclass
class Release:
    """``values`` beside those that every test wants."""

    cluster: Cluster
    folder: Path
    name: str = "cachd"
    namespace: str = "cachd-system"
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def sockets(self) -> str:
        """Directory of the node with the pods' socket."""
        return f"/run/{self.name}"

    @property
    def cache(self) -> str:
        """Directory of the node with the models."""
        return f"/var/cache/{self.name}"

    def install(self) -> Release:
        self._helm("install", "--create-namespace")
        self.daemon()
        return self

    @contextlib.contextmanager
    def changed(self, changes: dict[str, Any]) -> Iterator[None]:
        """With other values for a while."""
        before = self.values
        try:
            self.upgrade(changes)
            yield
        finally:
            self.values = before
            self.upgrade({})

    def upgrade(self, changes: dict[str, Any], *, wait: bool = True) -> None:
        self.values = merged(self.values, changes)
        self._helm("upgrade")
        if wait:
            self.daemon()

    def rollback(self, *, wait: bool = True) -> None:
        """To the revision before."""
        self.cluster.helm("rollback", self.name, "-n", self.namespace)
        if wait:
            self.daemon()

    def uninstall(self) -> None:
        self.cluster.helm("uninstall", self.name, "-n", self.namespace)

    def daemon(self, seconds: float = 120) -> Pod:
        """The daemon's pod, once there is one alone, of the newest template, and ready."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/daemonsets/{self.name}"

        def look() -> Pod | None:
            item = self.cluster.api("GET", path)
            status = item["status"]
            pods = self.pods()
            is_done = (
                status.get("observedGeneration") == item["metadata"]["generation"]
                and status.get("updatedNumberScheduled") == 1
                and status.get("numberReady") == 1
                and len(pods) == 1
            )
            return pods[0] if is_done else None

        try:
            found = until(look, f"{self.name} is ready", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None
        assert found is not None
        return found

    def pods(self) -> list[Pod]:
        selector = f"app.kubernetes.io/instance={self.name}"
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}"
        return [
            Pod(self.cluster, self.namespace, item["metadata"]["name"], item["metadata"]["uid"])
            for item in self.cluster.api("GET", path)["items"]
        ]

    def wait_gone(self) -> None:
        """After ``uninstall``: until no daemon is left."""
        until(lambda: not self.pods(), f"{self.name} is gone", 90)

    def cachd(self, *arguments: str) -> Any:
        """What a command of cachd's in the daemon's container answers."""
        return json.loads(self.daemon().exec("cachd", *arguments, "--json", container="cachd"))

    def views(self) -> dict[str, str]:
        """The revisions of pods' views, by the pods' uids."""
        socket = self.cluster.path(f"/run/{self.name}-admin/admin.sock")
        listed = call(socket, "GET", "/v1/views").json()["views"]
        return {view["pod"]: view["revision"] for view in listed}

    def story(self) -> str:
        return "\n".join(f"{pod.story()}\n{pod.log('cachd')}" for pod in self.pods())

    def _helm(self, *action: str) -> None:
        values = self.folder / f"{self.name}.json"
        places = {
            "fullnameOverride": self.name,
            "cache": {"hostPath": {"path": self.cache}},
            "socket": {"hostPath": {"path": self.sockets}},
            "adminSocket": {"hostPath": {"path": f"/run/{self.name}-admin"}},
        }
        values.write_text(json.dumps(merged(merged(VALUES, places), self.values)))
        chart = str(ROOT / "charts/cachd")
        self.cluster.helm(*action, self.name, chart, "-n", self.namespace, "-f", str(values))
