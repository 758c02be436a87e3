"""The node that scripts/kubernetes/cluster made, as tests use it."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.kubernetes.network import network_of

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/kubernetes/cluster"
T = TypeVar("T")
ADDRESS = "10.244.7.1"
"""The node's, for pods and for the servers of tests."""


def until(look: Callable[[], T], what: str, seconds: float = 60) -> T:
    """The first true answer of ``look``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Cluster:
    """``pid`` is the process that everything on the node ends with."""

    pid: int
    state: Path
    binaries: Path

    @classmethod
    def up(cls) -> Cluster:
        return cls._at(int(_script("up", timeout=300)))

    @classmethod
    def running(cls) -> Cluster | None:
        """The one that an earlier run left, or another run uses."""
        try:
            pid = int((_state() / "pid").read_text())
        except FileNotFoundError:
            return None
        return cls._at(pid) if (_node(pid) / "made").exists() else None

    @classmethod
    def _at(cls, pid: int) -> Cluster:
        # The programs that scripts/kubernetes/lib.sh chose are bound there.
        return cls(pid, _state(), _node(pid) / "bin")

    @staticmethod
    def down() -> None:
        _script("down")

    def load(self, image: str) -> None:
        _script("load", image)

    def stop_node(self) -> None:
        _script("stop-node")

    def start_node(self) -> None:
        _script("start-node", timeout=120)

    def network(self) -> AbstractContextManager[None]:
        """Inside, this thread is on the node's network."""
        return network_of(self.pid)

    def path(self, of_node: str) -> Path:
        """A path of the node's, as it is seen from here."""
        return Path(f"/proc/{self.pid}/root{of_node}")

    def run(
        self, *command: str | Path, stdin: str = "", check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine on the node's network, with the API server's pass."""
        with self.network():
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                env={**os.environ, "KUBECONFIG": str(self.state / "etc/kubeconfig")},
            )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        program = self.binaries / "kubectl"
        return self.run(program, *arguments, stdin=stdin, check=check).stdout

    def containerd(self, *arguments: str) -> str:
        socket = self.path("/run/containerd/containerd.sock")
        return self.run("ctr", "--address", socket, "--namespace", "k8s.io", *arguments).stdout

    def helm(self, *arguments: str) -> str:
        return self.run(Path(sys.executable).with_name("helm"), *arguments, timeout=240).stdout

    def api(self, method: str, path: str, body: Any = None, *, check: bool = True) -> Any:
        """One call of the API server; None for 404 unless ``check``."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with self.network():
            connection = http.client.HTTPSConnection(ADDRESS, 443, timeout=30, context=context)
            try:
                connection.request(
                    method,
                    path,
                    json.dumps(body) if body is not None else None,
                    {"Authorization": "Bearer admin-token", "Content-Type": "application/json"},
                )
                response = connection.getresponse()
                data = response.read()
            finally:
                connection.close()
        if response.status == 404 and not check:
            return None
        assert response.status < 300, f"{method} {path}: {response.status} {data!r}"
        return json.loads(data) if data.startswith(b"{") else data.decode()

    def create(self, item: dict[str, Any], namespace: str = "") -> dict[str, Any]:
        """Any object, by kubectl; the object as it then is."""
        arguments = ["create", "-f", "-", "-o", "json", *(["-n", namespace] if namespace else [])]
        answer: dict[str, Any] = json.loads(self.kubectl(*arguments, stdin=json.dumps(item)))
        return answer


def _node(pid: int) -> Path:
    """What scripts/kubernetes/cluster has made for the node, in the file system of its process."""
    return Path("/proc", str(pid), "root", "run", "node")


def _state() -> Path:
    return Path(os.environ.get("CACHD_KUBERNETES_STATE") or "/var/tmp/cachd-kubernetes")


def _script(*arguments: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"cluster {arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()
