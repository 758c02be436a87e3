"""Pods as KServe makes them: an init container that brings the model, a server that reads it.

The shape is that of KServe's injector (pkg/utils/storage.go, CreateInitContainerWithConfig).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.kubernetes.cluster import until

if TYPE_CHECKING:
    from tests.kubernetes.cluster import Cluster

IMAGE = "localhost/cachd:test"
MODELS = "/mnt/models"
INITIALIZER = "storage-initializer"
SERVER = "kserve-container"
SOCKETS = "/run/cachd"
CACHE = "/var/cache/cachd"


@dataclass(frozen=True)
class Pod:
    """A pod that was created."""

    cluster: Cluster
    namespace: str
    name: str
    uid: str

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def get(self) -> dict[str, Any] | None:
        """None once it is gone."""
        item: dict[str, Any] | None = self.cluster.api("GET", self.path, check=False)
        return item if item and item["metadata"]["uid"] == self.uid else None

    def status(self, container: str) -> dict[str, Any]:
        """The status of one container; empty before kubelet has one."""
        status = (self.get() or {}).get("status", {})
        for item in (
            *status.get("initContainerStatuses", ()),
            *status.get("containerStatuses", ()),
        ):
            if item["name"] == container:
                return dict(item)
        return {}

    def wait_running(self, seconds: float = 90) -> Pod:
        """Until all containers run."""

        def is_running() -> bool:
            status = (self.get() or {}).get("status", {})
            assert status.get("phase") != "Failed", self.story()
            containers = status.get("containerStatuses", ())
            return bool(containers) and all("running" in item["state"] for item in containers)

        try:
            until(is_running, f"{self.name} runs", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None
        return self

    def wait_terminated(self, container: str = INITIALIZER, seconds: float = 90) -> dict[str, Any]:
        """Until the container has ended, whether or not it was started again; how it ended."""

        def ended() -> dict[str, Any]:
            status = self.status(container)
            for state in (status.get("state", {}), status.get("lastState", {})):
                if "terminated" in state:
                    return dict(state["terminated"])
            return {}

        try:
            return until(ended, f"{container} of {self.name} ends", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def exec(self, *command: str, container: str = SERVER) -> str:
        return self.try_exec(*command, container=container, check=True)[1]

    def try_exec(
        self, *command: str, container: str = SERVER, check: bool = False
    ) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command in a container."""
        done = self.cluster.run(
            self.cluster.binaries / "kubectl",
            *("exec", "-n", self.namespace, self.name, "-c", container, "--", *command),
            check=check,
        )
        return done.returncode, done.stdout, done.stderr

    def read(self, file: str) -> bytes:
        """A file of the model as the server has it (the models of tests are short text)."""
        return self.exec("cat", f"{MODELS}/{file}").encode()

    def sha256(self, file: str) -> str:
        return self.exec("sha256sum", f"{MODELS}/{file}").split()[0]

    def log(self, container: str = INITIALIZER, *, previous: bool = False) -> str:
        """Empty, if there is none yet."""
        options = [
            "-n",
            self.namespace,
            self.name,
            "-c",
            container,
            f"--previous={str(previous).lower()}",
        ]
        return self.cluster.kubectl("logs", *options, check=False)

    def kill(self, container: str) -> str:
        """SIGKILL to the container's first process; the container's id."""
        found = until(lambda: self.running(container), f"{container} of {self.name} runs")
        name = found.removeprefix("containerd://")
        self.cluster.containerd("tasks", "kill", "--signal", "KILL", name)
        return found

    def running(self, container: str) -> str:
        """The container's id, if it runs; else an empty one."""
        status = self.status(container)
        return str(status["containerID"]) if "running" in status.get("state", {}) else ""

    def wait_restarted(self, container: str, before: str, seconds: float = 120) -> None:
        """Until another container than ``before`` runs."""
        until(
            lambda: self.running(container) not in ("", before),
            f"{container} of {self.name} is started again",
            seconds,
        )

    def delete(self, *, force: bool = True) -> None:
        """Ask for it to go; with force, at once and without waiting for kubelet."""
        body = {"gracePeriodSeconds": 0} if force else None
        self.cluster.api("DELETE", self.path, body, check=False)

    def wait_gone(self, seconds: float = 60) -> None:
        until(lambda: self.get() is None, f"{self.name} is gone", seconds)

    def story(self) -> str:
        """For whoever reads the failure of a test."""
        item = self.get()
        events = self.cluster.kubectl("get", "events", "-n", self.namespace, check=False)
        state = json.dumps((item or {}).get("status"), indent=1)
        return f"{state}\n{events}\n{self.log() if item else ''}"


def _field(path: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": path}}


IDENTITY: list[dict[str, Any]] = [
    {"name": "POD_UID", "valueFrom": _field("metadata.uid")},
    {"name": "POD_NAME", "valueFrom": _field("metadata.name")},
    {"name": "POD_NAMESPACE", "valueFrom": _field("metadata.namespace")},
]


def environment(**values: str) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


Way = Literal["stream", "copy", "descriptor", "view"]


def kserve_pod(
    name: str,
    *pairs: str,
    way: Way = "descriptor",
    uid: int | None = 1000,
    env: list[dict[str, Any]] | None = None,
    with_token: bool = False,
    sockets: str = SOCKETS,
    cache: str = CACHE,
) -> dict[str, Any]:
    """A pod with the models of ``pairs`` (URI and destination by turns).

    ``descriptor`` and ``stream`` see nothing but the sockets: which of the two it is, the release's
    cache.descriptors decides. ``copy`` mounts the cache beside them. ``view`` mounts its own part
    of the cache in the place of an emptyDir, for initializer and server, as the chart's
    ClusterStorageContainer and the volume ``kserve-provision-location`` do. ``sockets`` and
    ``cache``: directories of the node.
    """
    models: dict[str, Any] = {"name": "kserve-provision-location", "mountPath": MODELS}
    mounts = [models, {"name": "cachd", "mountPath": SOCKETS, "readOnly": True}]
    volumes = [
        {"name": "kserve-provision-location", "emptyDir": {}},
        {"name": "cachd", "hostPath": {"path": sockets, "type": "Directory"}},
    ]
    environ = [*environment(CACHD_SOCKET=f"{SOCKETS}/cachd.sock"), *IDENTITY]
    if way == "copy":
        mounts.append({"name": "cache", "mountPath": CACHE, "readOnly": True})
        volumes.append({"name": "cache", "hostPath": {"path": cache, "type": "Directory"}})
    if way == "view":
        models |= {"subPathExpr": "$(POD_UID)", "readOnly": True}
        volumes[0] = {
            "name": "kserve-provision-location",
            "hostPath": {"path": f"{cache}/views", "type": "Directory"},
        }
        environ += environment(CACHD_VIEW="always")
    # Of two with the same name the later one counts.
    environ += env or []
    if with_token:
        mounts.append({"name": "token", "mountPath": "/var/run/secrets/cachd", "readOnly": True})
        token = {"audience": "cachd", "path": "token"}
        source = {"sources": [{"serviceAccountToken": token}]}
        volumes.append({"name": "token", "projected": source})
    security = {} if uid is None else {"securityContext": {"runAsUser": uid}}
    common: dict[str, Any] = {"image": IMAGE, "imagePullPolicy": "Never", **security}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "initContainers": [
                {
                    "name": INITIALIZER,
                    "args": list(pairs),
                    "env": environ,
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": mounts,
                    **common,
                }
            ],
            "containers": [
                {
                    "name": SERVER,
                    "command": ["sleep", "infinity"],
                    "env": IDENTITY,
                    "volumeMounts": [{**models, "readOnly": True}],
                    **common,
                }
            ],
            "volumes": volumes,
        },
    }
