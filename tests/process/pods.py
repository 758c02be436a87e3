"""The client as in a pod: a process of another uid, without rights, in a mount namespace of its own
that shows it as little of the node as a container would be shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from tests.harness import Daemon
from tests.servers.require import program

# $1: what may be written, $2: what is hidden, $3: what is mounted at $4. With $5 the root is
# read-only for this namespace.
_ENTER = """
set -e
mount --bind "$1" "$1"
if [ -n "$3" ]; then mount --bind "$3" "$4"; fi
mount -t tmpfs none "$2"
if [ -n "$5" ]; then mount -o remount,bind,ro /; fi
shift 5
exec "$@"
"""


_CHECKOUT = Path(__file__).parents[2]
_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
_MODULES = os.pathsep.join([str(_CHECKOUT), sysconfig.get_path("platlib")])


@dataclass
class Pod:
    """``place`` is the pod's own: everybody may write there. ``hidden`` isn't shown to it, but for
    ``mounted``, a directory that its ``models`` shows."""

    uid: int
    python: str
    place: Path
    hidden: Path
    mounted: Path | None = None
    is_root_read_only: bool = False
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> Path:
        return self.place / "models"

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """``cachd`` with these arguments."""
        rights = ["--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups"]
        if self.mounted:
            self.models.mkdir(exist_ok=True)
        return subprocess.Popen(
            [
                *(program("unshare", "util-linux"), "--mount", "--propagation", "private"),
                *("sh", "-c", _ENTER, "sh", str(self.place), str(self.hidden)),
                *(str(self.mounted or ""), str(self.models)),
                "yes" if self.is_root_read_only else "",
                *(program("setpriv", "util-linux"), *rights, "--inh-caps=-all", "--no-new-privs"),
                *(self.python, "-m", "cachd", *map(str, arguments)),
            ],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": _MODULES, **self.environ},
            cwd=_CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def pod(daemon: Daemon, uid: int, **environ: str) -> Iterator[Pod]:
    """A pod of the node of ``daemon``; it sees the daemon's socket and nothing else of it."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace and another uid need root")
    python = python_for(uid)
    if python is None:
        pytest.skip(f"uid {uid} may run no Python {_VERSION}, or may not read this checkout")
    if not may_mount():
        pytest.skip("no mount namespace can be made here")
    place = Path(tempfile.mkdtemp(prefix="cachd-pod-"))
    place.chmod(0o777)
    try:
        known = {"CACHD_SOCKET": str(daemon.socket), **environ}
        daemon.home.mkdir(parents=True, exist_ok=True)
        yield Pod(uid, python, place, daemon.home, environ=known)
    finally:
        shutil.rmtree(place)


@cache
def python_for(uid: int) -> str | None:
    """This Python, or the system's of the same version where this one is in somebody's home."""
    rights = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
    code = (
        "import subprocess, sys, cachd.daemon; subprocess.run([sys.executable, '-V'], check=True)"
    )
    for python in (sys.executable, f"/usr/bin/python{_VERSION}"):
        done = subprocess.run(
            [*rights, python, "-c", code],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": _MODULES},
            cwd=_CHECKOUT,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return python
    return None


@cache
def may_mount() -> bool:
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
