"""A pull without the node's daemon: only when told to, by the daemon's own code, and leaving
nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disk import tree_of
from tests.harness import Daemon, eventually, running
from tests.process.origin import CountingOrigin
from tests.process.pods import pod
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.slow

MEMORY = 220 * 2**20
"""What docs/initializer.md says of all processes together."""

WEIGHTS = os.urandom(9 * 1024 * 1024)


def start(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    known = {
        "PATH": os.environ["PATH"],
        "CACHD_SOCKET": str(tmp_path / "none.sock"),
        "CACHD_WAIT_DAEMON": "0",
        "CACHD_FALLBACK": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "cachd", *arguments],
        env={**known, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    with start(tmp_path, *arguments, **environ) as process:
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def test_it_is_off_by_default(tmp_path: Path, origin: CountingOrigin) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    uri = f"{origin.url}/m.bin"
    done = run(tmp_path, "pull", uri, str(tmp_path / "out"), CACHD_FALLBACK="")
    assert done.returncode == 3
    assert origin.requests.total() == 0
    assert not (tmp_path / "out").exists()


def test_without_a_daemon_the_model_comes_and_nothing_else_stays(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    # A destination that is deeper than a socket's path may be long.
    out = tmp_path / ("deep" * 20) / ("er" * 30)
    done = run(tmp_path, f"{origin.url}/m.bin", str(out))
    assert done.returncode == 0, done.stderr
    assert tree_of(out) == {"m.bin": WEIGHTS}
    assert [path.name for path in out.iterdir()] == ["m.bin"]
    assert (out / "m.bin").stat().st_nlink == 1
    assert "no daemon: there is no socket" in done.stderr
    assert "fetching the model here instead (fallback)" in done.stderr
    assert "without the node's cache; move in" in done.stdout


def test_a_daemon_that_has_no_space_is_no_obstacle(tmp_path: Path, origin: CountingOrigin) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    arguments = ("pull", f"{origin.url}/m.bin", str(tmp_path / "out"))
    with running(tmp_path / "d", STORE_QUOTA="2MiB") as daemon:
        known = {"CACHD_SOCKET": str(daemon.socket)}
        refused = run(tmp_path, *arguments, **known, CACHD_FALLBACK="false")
        assert (refused.returncode, "quota" in refused.stderr) == (6, True)
        done = run(tmp_path, *arguments, **known)
        assert done.returncode == 0, done.stderr
        assert tree_of(tmp_path / "out") == {"m.bin": WEIGHTS}


def test_what_is_wrong_with_the_model_is_no_reason_to_fetch_it_here(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    with running(tmp_path / "d") as daemon:
        known = {"CACHD_SOCKET": str(daemon.socket)}
        done = run(tmp_path, "pull", f"{origin.url}/none", str(tmp_path / "out"), **known)
    assert done.returncode == 4
    assert "fallback" not in done.stderr


def test_it_is_verified_as_by_the_daemon(tmp_path: Path, origin: CountingOrigin) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    uri, out = f"{origin.url}/m.bin", tmp_path / "out"
    wrong = run(tmp_path, "pull", uri, str(out), CACHD_DIGEST=f"m.bin=sha256:{'ab' * 32}")
    assert wrong.returncode == 1
    assert "sha256" in wrong.stderr
    assert not out.exists()
    right = hashlib.sha256(WEIGHTS).hexdigest()
    done = run(tmp_path, "pull", uri, str(out), CACHD_DIGEST=f"m.bin=sha256:{right}")
    assert done.returncode == 0, done.stderr
    assert tree_of(out) == {"m.bin": WEIGHTS}


def test_killed_it_takes_its_daemon_along_and_the_next_one_clears_up(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = os.urandom(9 * 1024 * 1024)
    origin.hold(1024 * 1024)
    out = tmp_path / "out"
    with start(tmp_path, f"{origin.url}/m.bin", str(out)) as pull:
        assert origin.held.wait(60)
        children = descendants(pull.pid)
        assert len(children) >= 2
        pull.kill()
        pull.communicate(timeout=60)
    origin.release()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert [path.name for path in out.iterdir()] != []
    done = run(tmp_path, f"{origin.url}/m.bin", str(out))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.iterdir()] == ["m.bin"]
    assert tree_of(out) == {"m.bin": origin.bodies["/m.bin"]}


def test_a_pod_without_rights_a_home_or_a_place_for_temporary_files(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = WEIGHTS
    nobody = Daemon(tmp_path)
    try:
        environ = {"CACHD_FALLBACK": "true", "CACHD_WAIT_DAEMON": "0", "TMPDIR": "/nonexistent"}
        with pod(nobody, 1_000_650_000, **environ) as one:
            one.is_root_read_only = True
            done = one.run(f"{origin.url}/m.bin", one.models)
            assert done.returncode == 0, done.stderr
            assert tree_of(one.place) == {"models/m.bin": WEIGHTS}
    finally:
        nobody.close()


def test_its_memory_is_what_the_documents_say(tmp_path: Path, seaweed: S3Server) -> None:
    """All processes together, shared pages counted once."""
    files = {f"m/{n}.bin": os.urandom(1024 * 1024) * 48 for n in range(3)}
    bucket = seaweed.make_bucket(files)
    environ = {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_ENDPOINT_URL": seaweed.tls_endpoint,
        "S3_VERIFY_SSL": "0",
    }
    peak = 0
    with start(tmp_path, f"s3://{bucket}/m", str(tmp_path / "out"), **environ) as pull:
        while pull.poll() is None:
            peak = max(peak, sum(proportional(p) for p in [pull.pid, *descendants(pull.pid)]))
        _, err = pull.communicate(timeout=60)
    assert pull.returncode == 0, err
    assert tree_of(tmp_path / "out") == {name.removeprefix("m/"): b for name, b in files.items()}
    assert 64 * 2**20 < peak < MEMORY


def test_what_is_not_to_be_forwarded_is_not_used_here_either(
    tmp_path: Path, seaweed: S3Server
) -> None:
    bucket = seaweed.make_bucket({"m/a.bin": b"1"})
    uri = f"s3://{bucket}/m?endpoint={seaweed.endpoint}"
    keys = {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
    }
    done = run(tmp_path, "pull", "--no-forward", uri, str(tmp_path / "out"), **keys)
    assert done.returncode == 5, done.stderr
    done = run(tmp_path, "pull", uri, str(tmp_path / "out"), **keys)
    assert done.returncode == 0, done.stderr


def proportional(pid: int) -> int:
    """Bytes of a process's memory (PSS)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(ln.split()[1]) for ln in text.splitlines() if ln.startswith("Pss:")) * 1024
