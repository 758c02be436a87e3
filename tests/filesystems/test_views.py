"""Views beside kubelet, which makes a pod's directory as root before anybody asks, and on file
systems that can share blocks."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.filesystems.conftest import MakeVolume
from tests.filesystems.volumes import MIB
from tests.harness import Daemon, eventually
from tests.process.origin import CountingOrigin
from tests.servers import require

pytestmark = pytest.mark.slow

POD = "0f8b3c2a-1111-4222-8333-944444444444"
NEXT = "1f8b3c2a-1111-4222-8333-944444444444"
UID = 10001
# It may read everything, so that it finds the interpreter, and write what is its own.
_KEPT = "-all,+dac_read_search"
UNPRIVILEGED = [
    "setpriv",
    *(f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"),
    *(f"--inh-caps={_KEPT}", f"--ambient-caps={_KEPT}", f"--bounding-set={_KEPT}"),
]

Serve = Callable[..., Daemon]


def kubelet_makes(views: Path, relative: str) -> Path:
    """As kubelet's SafeMakeDir does (pkg/volume/util/subpath): every component with the mode of the
    volume's directory under its umask, and the last one with exactly that mode."""
    mode = stat.S_IMODE(views.stat().st_mode)
    umask = os.umask(0o022)
    try:
        made = views
        for part in relative.split("/"):
            made /= part
            if not made.exists():
                made.mkdir(mode & 0o777)
    finally:
        os.umask(umask)
    made.chmod(mode)
    return made


@pytest.fixture
def unprivileged() -> Iterator[Daemon]:
    """In a directory that every uid can reach, unlike pytest's."""
    require.root()
    require.program("setpriv", "util-linux")
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="cachd-", dir="/var/tmp")), prefix=UNPRIVILEGED)
    daemon.home.chmod(0o755)
    for path in (daemon.home, daemon.run):
        os.chown(path, UID, UID)
    yield daemon.start()
    daemon.close()
    shutil.rmtree(daemon.home)


def ask(daemon: Daemon, origin: CountingOrigin, **view: Any) -> dict[str, Any]:
    origin.bodies.setdefault("/m.bin", os.urandom(MIB))
    found = daemon.ask(f"{origin.url}/m.bin", view=view).json()
    assert "view" in found, found
    return dict(found["view"])


@pytest.mark.parametrize("name", ["", "deep/er"])
def test_a_directory_that_kubelet_made_as_root_is_filled_and_goes(
    unprivileged: Daemon, origin: CountingOrigin, name: str
):
    """The daemon is uid 10001 and has no capability to write; the directory belongs to root."""
    views = unprivileged.root / "views"
    made = kubelet_makes(views, f"{POD}/{name}".rstrip("/"))
    status = made.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, UID, 0o2775)
    view = ask(unprivileged, origin, pod=POD, name=name)
    assert (view["inode"], view["mode"], view["notes"]) == (status.st_ino, "link", [])
    file = made / "m.bin"
    assert file.read_bytes() == origin.bodies["/m.bin"]
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (UID, 0o444)
    assert unprivileged.admin("DELETE", f"/v1/views/{POD}").json()["removed"] == 1
    eventually(lambda: list(views.iterdir()) == [])
    eventually(lambda: list((unprivileged.root / "trash").iterdir()) == [])


def test_whoever_comes_first_the_pods_user_reads_and_does_not_write(
    unprivileged: Daemon, origin: CountingOrigin
):
    kubelet_makes(unprivileged.root / "views", POD)
    for pod in (POD, NEXT):
        place = Path(ask(unprivileged, origin, pod=pod)["path"])
        for path in (place, place / "m.bin"):
            mode = path.stat().st_mode
            assert mode & 0o005 == (0o005 if path.is_dir() else 0o004)
            assert not mode & 0o002
    assert unprivileged.admin("GET", "/readyz").json()["degraded"] == []


def test_what_a_pods_user_made_in_its_private_copy_goes_with_it(
    unprivileged: Daemon, origin: CountingOrigin
):
    """The pod's files belong to another uid; an access list lets the daemon remove them."""
    view = ask(unprivileged, origin, pod=POD, mode="copy")
    assert view["writable"]
    place = Path(view["path"])
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(1000)
        os.setuid(1000)
        os.umask(0o022)
        os.chdir("/")
        code = 1
        try:
            (place / "cache" / "deep").mkdir(parents=True)
            (place / "cache" / "deep" / "file").write_text("mine")
            (place / "m.bin").write_bytes(b"changed")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    unprivileged.admin("DELETE", f"/v1/views/{POD}")
    eventually(lambda: list((unprivileged.root / "trash").iterdir()) == [])


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_directory_that_can_not_be_filled_is_told_of(
    unprivileged: Daemon, origin: CountingOrigin, mode: int
):
    made = unprivileged.root / "views" / POD
    made.mkdir()
    os.removexattr(made, "system.posix_acl_access")
    os.chown(made, 0, 0)
    made.chmod(mode)
    origin.bodies["/m.bin"] = b"x"
    found = unprivileged.ask(f"{origin.url}/m.bin", view={"pod": POD})
    assert (found.status, found.json()["code"]) == (409, "view_unavailable")
    assert "uid 0" in found.json()["detail"]
    assert "store.views_mode" in found.json()["hint"]


@pytest.mark.parametrize(("kind", "shares"), [("xfs", True), ("btrfs", True), ("ext4", False)])
def test_a_private_copy_shares_its_blocks_where_the_file_system_can(
    make_volume: MakeVolume, serve: Serve, origin: CountingOrigin, kind: str, shares: bool
):
    volume = make_volume(kind, 320 * MIB)
    daemon = serve(volume)
    origin.bodies["/m.bin"] = os.urandom(48 * MIB)
    first = daemon.ask(f"{origin.url}/m.bin").json()
    os.sync()
    before = volume.free
    view = ask(daemon, origin, pod=POD, mode="copy")
    os.sync()
    taken = before - volume.free
    assert (taken < 8 * MIB) == shares
    with (Path(view["path"]) / "m.bin").open("r+b") as file:
        file.write(b"mine")
    assert (Path(first["path"]) / "m.bin").read_bytes() == origin.bodies["/m.bin"]
    # Charged in full: the pod may write all of it.
    assert daemon.metric("cachd_view_bytes") >= 48 * MIB


def test_views_on_a_file_system_in_memory(
    make_volume: MakeVolume, serve: Serve, origin: CountingOrigin
):
    daemon = serve(make_volume("tmpfs", 64 * MIB))
    assert ask(daemon, origin, pod=POD)["mode"] == "link"
    assert ask(daemon, origin, pod=NEXT, mode="copy")["mode"] == "copy"
    shutil.rmtree(daemon.root / "views" / NEXT)
    assert daemon.admin("DELETE", f"/v1/views/{NEXT}").json()["removed"] == 1
