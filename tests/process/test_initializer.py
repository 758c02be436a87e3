"""The initializer and the daemon as they are on a node: separate processes, other uids, other mount
namespaces, a daemon that restarts in the middle."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.disk import tree_of
from tests.filesystems.conftest import journalled
from tests.harness import Daemon, eventually, running
from tests.process.origin import CountingOrigin
from tests.process.pods import Pod, pod
from tests.process.test_descriptors import twin_of

POD = "0f8b3c2a-1111-4222-8333-944444444444"
WEIGHTS = os.urandom(9 * 1024 * 1024)


@pytest.mark.parametrize("uid", [0, 1_000_650_000])
def test_any_uid_on_a_read_only_root_without_a_home(
    uid: int, tmp_path: Path, origin: CountingOrigin
) -> None:
    """No entry in passwd, HOME and TMPDIR that lead nowhere, nothing writable but the
    destination's volume, and of the cache only its socket."""
    origin.bodies["/m.bin"] = WEIGHTS
    with running(tmp_path) as daemon, pod(daemon, uid) as one:
        one.is_root_read_only = True
        one.environ |= {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
        done = one.run(f"{origin.url}/m.bin", one.models)
        assert done.returncode == 0, done.stderr
        assert tree_of(one.place) == {"models/m.bin": WEIGHTS}
        found = (one.models / "m.bin").stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (uid, 0o644)
        assert "warning" not in done.stderr


def test_without_the_names_of_home_and_temporary_files(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    with running(tmp_path) as daemon, pod(daemon, 1_000_650_000) as one:
        one.is_root_read_only = True
        assert one.run(f"{origin.url}/m.bin", one.models).returncode == 0
        refused = one.run(f"{origin.url}/m.bin", "/outside")
        assert refused.returncode == 1
        assert "mount the destination for writing" in refused.stderr
        assert not Path("/outside").exists()


def test_a_daemon_that_restarts_in_mid_pull(tmp_path: Path, origin: CountingOrigin) -> None:
    origin.bodies["/m.bin"] = os.urandom(40 * 1024 * 1024)
    settings = {"FETCH_CONNECTIONS": "1", "FETCH_PART_SIZE": "8MiB"}
    daemon = Daemon(tmp_path, settings=settings)
    try:
        with pod(daemon.start(), 1337) as one:
            origin.hold(20 * 1024 * 1024)
            pull = one.start(f"{origin.url}/m.bin", one.models)
            with pull:
                assert origin.held.wait(60)
                eventually(lambda: journalled(daemon) >= 2)
                daemon.kill()
                origin.release()
                daemon.start()
                out, err = pull.communicate(timeout=60)
            assert pull.returncode == 0, err
            assert tree_of(one.place) == {"models/m.bin": origin.bodies["/m.bin"]}
            assert "waiting up to 30 s for it" in err
            # What was journalled before is not fetched again.
            assert origin.sent.total() < 56 * 1024 * 1024
            assert "stream" in out or "descriptor" in out
    finally:
        daemon.close()


def test_a_daemon_that_starts_after_the_pod(tmp_path: Path, origin: CountingOrigin) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    daemon = Daemon(tmp_path)
    try:
        with pod(daemon, 1000) as one:
            pull = one.start(f"{origin.url}/m.bin", one.models)
            with pull:
                assert pull.stderr is not None
                assert "→" in pull.stderr.readline()
                assert "no daemon" in pull.stderr.readline()
                daemon.start()
                _, err = pull.communicate(timeout=60)
            assert pull.returncode == 0, err
            assert tree_of(one.models) == {"m.bin": WEIGHTS}
    finally:
        daemon.close()


def test_an_initializer_killed_in_mid_copy_is_made_up_for_by_the_next(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    with running(tmp_path) as daemon, pod(daemon, 1337) as one:
        origin.hold(1024 * 1024)
        pull = one.start(f"{origin.url}/m.bin", one.models)
        with pull:
            assert origin.held.wait(60)
            pull.kill()
            pull.wait(60)
        origin.release()
        (one.models / ".cachd-pull-dead").mkdir(parents=True)
        os.chown(one.models, 1337, 1337)
        os.chown(one.models / ".cachd-pull-dead", 1337, 1337)
        assert one.run(f"{origin.url}/m.bin", one.models).returncode == 0
        assert tree_of(one.models) == {"m.bin": WEIGHTS}
        assert [path.name for path in one.models.iterdir()] == ["m.bin"]
        eventually(lambda: daemon.admin("GET", "/v1/models").json()["models"][0]["leases"] == 0)


# --- the ways -----------------------------------------------------------------------------


def test_descriptors_come_before_the_stream(tmp_path: Path, origin: CountingOrigin) -> None:
    """And a token that this daemon has no use for harms nothing, and is told to nobody."""
    origin.bodies["/m.bin"] = WEIGHTS
    daemon = Daemon(tmp_path / "one")
    twin_of(daemon, f'mount -o remount,bind,ro "{tmp_path / "one" / "twin"}"')
    try:
        with pod(daemon.start(), 1337) as one:
            (one.place / "token").write_text("pods-own-token-2718")
            one.environ["CACHD_TOKEN_FILE"] = str(one.place / "token")
            done = one.run("pull", f"{origin.url}/m.bin", one.models, "--json", "--verify")
            assert "own-token-2718" not in done.stdout + done.stderr + daemon.log()
            assert done.returncode == 0, done.stderr
            materialised = json.loads(done.stdout)["materialised"]
            assert (materialised["way"], materialised["verified"]) == ("descriptor", True)
            assert tree_of(one.models) == {"m.bin": WEIGHTS}
            eventually(lambda: daemon.metric("cachd_requests_total", endpoint="descriptor") >= 1)
            assert daemon.metric("cachd_requests_total", endpoint="file") == 0
    finally:
        daemon.close()


def kubelet_makes(daemon: Daemon) -> Path:
    """The directory that a subPathExpr of $(POD_UID) gives, before anybody asked for a model."""
    directory = daemon.root / "views" / POD
    directory.mkdir()
    return directory


def as_view(uri: str, one: Pod, **environ: str) -> subprocess.CompletedProcess[str]:
    one.environ |= {"POD_UID": POD, "CACHD_VIEW": "auto", **environ}
    return one.run(uri, one.models)


@pytest.mark.parametrize("uid", [0, 1337])
def test_a_view_is_mounted_before_it_is_filled(
    uid: int, tmp_path: Path, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon, pod(daemon, uid) as one:
        one.mounted = kubelet_makes(daemon)
        done = as_view(f"{origin.url}/m.bin", one)
        assert done.returncode == 0, done.stderr
        assert "; view in " in done.stdout
        assert tree_of(one.mounted) == {"m.bin": WEIGHTS}
        assert (one.mounted / "m.bin").stat().st_nlink == 2
        # The container restarts, and by then the source has moved: the pod keeps its revision.
        origin.bodies["/m.bin"] = b"new"
        again = as_view(f"{origin.url}/m.bin", one)
        assert again.returncode == 0, again.stderr
        assert "; view in " in again.stdout
        assert tree_of(one.mounted) == {"m.bin": WEIGHTS}


def test_a_writable_view_is_a_private_copy(tmp_path: Path, origin: CountingOrigin) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    with running(tmp_path) as daemon, pod(daemon, 1337) as one:
        one.mounted = kubelet_makes(daemon)
        done = as_view(f"{origin.url}/m.bin", one, CACHD_READONLY="false")
        assert done.returncode == 0, done.stderr
        assert "; view in " in done.stdout
        found = (one.mounted / "m.bin").stat()
        assert (found.st_nlink, stat.S_IMODE(found.st_mode)) == (1, 0o666)


def test_where_the_view_is_not_mounted_the_model_is_copied(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    with running(tmp_path) as daemon, pod(daemon, 1337) as one:
        done = as_view(f"{origin.url}/m.bin", one)
        assert done.returncode == 0, done.stderr
        assert "; stream in " in done.stdout
        assert tree_of(one.models) == {"m.bin": WEIGHTS}
        assert daemon.admin("GET", "/v1/views").json()["views"] == []
        refused = as_view(f"{origin.url}/m.bin", one, CACHD_VIEW="always")
        assert refused.returncode == 1
        assert "doesn't show this pod's view" in refused.stderr
        assert daemon.admin("GET", "/v1/views").json()["views"] == []
