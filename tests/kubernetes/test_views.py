"""Views: a pod's own directory of the cache, mounted in the place of a copy."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from tests.kubernetes.cluster import until
from tests.kubernetes.conftest import NewPod, NewRelease
from tests.kubernetes.pods import INITIALIZER, environment, kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

MIB = 1 << 20
BODY = random.Random(5).randbytes(8 * MIB)
DIGEST = hashlib.sha256(BODY).hexdigest()

# As root: whatever might change a file or a directory below DEST. Prints what it could do.
ATTACK = """
import os, pathlib, subprocess, sys
tree = pathlib.Path(sys.argv[1])
file = tree / "model.bin"
fd = os.open(file, os.O_RDONLY)
done = []
def attempt(name, action):
    try:
        action()
    except OSError:
        return
    done.append(name)
attempt("write", lambda: file.open("r+b").write(b"evil"))
attempt("truncate", lambda: os.truncate(file, 0))
attempt("replace", lambda: (tree / "x").write_bytes(b"evil"))
attempt("unlink", file.unlink)
attempt("rename", lambda: file.rename(tree / "y"))
attempt("chmod", lambda: file.chmod(0o666))
attempt("chown", lambda: os.chown(file, 0, 0))
attempt("link", lambda: os.link(file, tree / "z"))
attempt("reopen", lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
attempt("fchmod", lambda: os.fchmod(fd, 0o666))
remount = ["mount", "-o", "remount,rw", str(tree)]
if subprocess.run(remount, capture_output=True).returncode == 0:
    done.append("remount")
print(done)
"""

# As root, through descriptors that the daemon passes.
REOPEN = """
import array, json, os, socket, subprocess, sys
uri = sys.argv[1]
pull = ["cachd", "pull", uri, "--json", "--quiet", "--lease-ttl", "60"]
answer = json.loads(subprocess.run(pull, capture_output=True, check=True).stdout)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect("/run/cachd/files.sock")
ask = {"key": answer["key"], "revision": answer["revision"], "path": "model.bin"}
sock.send(json.dumps({**ask, "lease": answer["lease"]["id"]}).encode())
data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(16))
fds = array.array("i")
fds.frombytes(ancillary[0][2][:4])
fd = fds[0]
done = []
def attempt(name, action):
    try:
        action()
    except OSError:
        return
    done.append(name)
assert len(os.pread(fd, 4, 0)) == 4
attempt("write", lambda: os.pwrite(fd, b"evil", 0))
attempt("truncate", lambda: os.ftruncate(fd, 0))
attempt("chmod", lambda: os.fchmod(fd, 0o666))
attempt("chown", lambda: os.fchown(fd, 0, 0))
attempt("reopen", lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
attempt("reopen to truncate", lambda: os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC))
attempt("truncate by path", lambda: os.truncate(f"/proc/self/fd/{fd}", 0))
print(done)
"""


def test_root_in_a_pod_changes_nothing_through_its_view(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    pod = new_pod(kserve_pod("p", uri, "/mnt/models", way="view", uid=0)).wait_running()
    assert pod.exec("python", "-c", ATTACK, "/mnt/models").strip() == "[]"
    # A private copy can be changed, so the attacks do work.
    writable = kserve_pod("q", uri, "/mnt/models", uid=0)
    del writable["spec"]["containers"][0]["volumeMounts"][0]["readOnly"]
    other = new_pod(writable).wait_running()
    assert "write" in other.exec("python", "-c", ATTACK, "/mnt/models")
    assert pod.sha256("model.bin") == DIGEST
    assert release.cachd("verify", uri)["ok"]


def test_root_in_an_initializer_changes_nothing_through_its_view(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    item = kserve_pod("p", f"{origin.url}/m/model.bin", "/mnt/models", way="view", uid=0)
    first = item["spec"]["initContainers"][0]
    second = {**first, "name": "attack", "command": ["python", "-c", ATTACK, "/mnt/models"]}
    del second["args"]
    item["spec"]["initContainers"].append(second)
    pod = new_pod(item).wait_running()
    assert pod.log("attack").strip() == "[]"
    assert pod.sha256("model.bin") == DIGEST


def test_root_changes_nothing_through_descriptors(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    item = kserve_pod("p", uri, "/mnt/models", uid=0)
    container = item["spec"]["initContainers"][0]
    container["command"] = ["python", "-c", REOPEN, uri]
    del container["args"]
    pod = new_pod(item).wait_running()
    assert pod.log().strip() == "[]"
    assert release.cachd("verify", uri)["ok"]


def test_a_view_that_exists_before_its_model(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    """Kubelet makes the directory when it mounts it; the model comes later."""
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    origin.hold(after=MIB)
    uri = f"{origin.url}/m/model.bin"
    pod = new_pod(kserve_pod("p", uri, "/mnt/models", way="view"))
    assert origin.held.wait(60), pod.story()
    place = release.cluster.path(f"/var/cache/cachd/views/{pod.uid}")
    assert list(place.iterdir()) == []
    assert pod.exec("ls", "-A", "/mnt/models", container=INITIALIZER) == ""
    origin.release()
    pod.wait_running()
    assert pod.sha256("model.bin") == DIGEST
    (blob,) = place.iterdir()
    assert blob.stat().st_nlink >= 2, "it is the cache's own file, not a copy"


def test_a_pods_model_stays_under_pressure_and_goes_soon_after_the_pod(
    origin: CountingOrigin, new_pod: NewPod, new_release: NewRelease
) -> None:
    small = new_release("small", {"config": {"store": {"quota": "24MiB"}}})
    for name in "abc":
        origin.bodies[f"/{name}/model.bin"] = random.Random(name).randbytes(8 * MIB)
    origin.bodies["/large/model.bin"] = random.Random(6).randbytes(18 * MIB)
    digest = hashlib.sha256(origin.bodies["/a/model.bin"]).hexdigest()
    where: dict[str, Any] = {"sockets": small.sockets, "cache": small.cache}
    uri = f"{origin.url}/a/model.bin"
    pod = new_pod(kserve_pod("a", uri, "/mnt/models", way="view", **where)).wait_running()
    assert pod.uid in small.views()
    for name in "bcb":
        small.cachd("pull", f"{origin.url}/{name}/model.bin")
    kept = {model["uri"] for model in small.cachd("ls")["models"]}
    assert uri in kept
    assert origin.sent["/b/model.bin"] == 2 * 8 * MIB, "there was pressure: it was evicted"
    daemon = small.daemon()
    large = ("cachd", "pull", f"{origin.url}/large/model.bin", "--quiet")
    code, _, error = daemon.try_exec(*large, container="cachd")
    assert code == 6, error
    assert pod.sha256("model.bin") == digest
    pod.delete()
    until(lambda: pod.uid not in small.views(), "the view of a pod that is gone ends", 30)
    code, _, error = daemon.try_exec(*large, container="cachd")
    assert code == 0, error
    assert uri not in {model["uri"] for model in small.cachd("ls")["models"]}


def test_a_view_needs_nothing_of_the_daemon_afterwards(
    origin: CountingOrigin, new_pod: NewPod, new_release: NewRelease
) -> None:
    """Uninstalled: the objects go, the data stays, and pods that run notice nothing."""
    gone = new_release("gone", {})
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    where: dict[str, Any] = {"sockets": gone.sockets, "cache": gone.cache}
    pod = new_pod(kserve_pod("p", uri, "/mnt/models", way="view", **where)).wait_running()
    gone.uninstall()
    gone.wait_gone()
    selector = "app.kubernetes.io/instance=gone"
    kinds = "daemonset,configmap,serviceaccount,secret,service,clusterrole,clusterrolebinding"
    left = gone.cluster.kubectl("get", kinds, "-A", "-l", selector, "-o", "name")
    assert left == ""
    assert pod.sha256("model.bin") == DIGEST
    blobs = list(gone.cluster.path(f"{gone.cache}/snapshots").glob("*/*/tree/model.bin"))
    assert [blob.stat().st_size for blob in blobs] == [len(BODY)]
    # Installed again, it has what it had.
    gone.install()
    patience = environment(CACHD_WAIT_DAEMON="60")
    again = kserve_pod("q", uri, "/mnt/models", way="view", env=patience, **where)
    assert new_pod(again).wait_running().sha256("model.bin") == DIGEST
    assert origin.sent["/m/model.bin"] == len(BODY)
