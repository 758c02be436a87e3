"""``cachd pull`` against a daemon that speaks the wire."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.disk import tree_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import AnotherUser, Run
    from tests.cli.fake_daemon import FakeDaemon

URI = "s3://bucket/model"
FILES = {"config.json": b"{}", "a/b/weights.bin": os.urandom(3_000_000), "empty": b""}


def test_without_a_destination_it_says_where_the_model_is(daemon: FakeDaemon, run: Run) -> None:
    model = daemon.add(URI, FILES)
    outcome = run("pull", URI, "--socket", daemon.socket)
    assert outcome.code == 0
    assert str(model.tree) in outcome.out
    assert model.key in outcome.out
    assert daemon.script.asks[0].get("lease") is None


def test_a_readable_cache_is_copied_in_the_kernel(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    outcome = run("pull", URI, tmp_path / "new" / "dest", "--socket", daemon.socket, "--json")
    assert outcome.code == 0
    assert outcome.json["materialised"]["way"] in ("copy", "reflink")
    assert outcome.json["materialised"]["bytes"] == 3_000_002
    assert tree_of(tmp_path / "new" / "dest") == FILES
    assert not any(path.endswith(("weights.bin", ".tar")) for _, path in daemon.script.requests)
    mode = (tmp_path / "new" / "dest" / "a" / "b" / "weights.bin").stat().st_mode
    assert stat.S_IMODE(mode) == 0o644


def test_a_hidden_cache_is_streamed_under_a_lease(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    daemon.script.hide_path = True
    outcome = run("pull", URI, tmp_path / "dest", "--socket", daemon.socket, "--json")
    assert outcome.json["materialised"]["way"] == "stream"
    assert tree_of(tmp_path / "dest") == FILES
    assert daemon.script.lease_headers == ["lease-0"] * 3
    assert daemon.script.leases == {}
    holder = daemon.script.asks[0]["lease"]["holder"]
    assert holder.endswith(f":{os.getpid()}")


def test_a_lease_is_pass_enough(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    daemon.add(URI, FILES)
    daemon.script.hide_path = daemon.script.hide_page = True
    assert run("pull", URI, tmp_path / "dest", "--socket", daemon.socket).code == 0
    assert tree_of(tmp_path / "dest") == FILES


def test_verify_checks_every_block(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    big = {"big.bin": os.urandom(8 * 1024 * 1024 + 17), **FILES}
    daemon.add(URI, big)
    daemon.script.hide_path = True
    outcome = run("pull", URI, tmp_path / "d", "--socket", daemon.socket, "--verify", "--json")
    assert outcome.json["materialised"]["verified"] is True
    daemon.script.corrupt = "big.bin"
    outcome = run("pull", URI, tmp_path / "e", "--socket", daemon.socket, "--verify")
    assert outcome.code == 1
    assert "big.bin differs from the manifest in block 0" in outcome.err
    assert not (tmp_path / "e").exists()


def test_a_failure_leaves_the_destination_as_it_was(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    daemon.script.hide_path = True
    daemon.script.corrupt = "a/b/weights.bin"
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "config.json").write_text("old")
    outcome = run("pull", URI, dest, "--socket", daemon.socket, "--verify")
    assert outcome.code == 1
    assert tree_of(dest) == {"config.json": b"old"}
    assert list(dest.iterdir()) == [dest / "config.json"]


def test_existing_files_are_replaced_and_others_stay(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "config.json").write_text("old")
    (dest / "mine.txt").write_text("mine")
    before = (dest / "config.json").stat().st_ino
    assert run("pull", URI, dest, "--socket", daemon.socket).code == 0
    assert tree_of(dest) == {**FILES, "mine.txt": b"mine"}
    assert (dest / "config.json").stat().st_ino != before


def test_leftovers_of_a_killed_run_are_cleared(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    dest = tmp_path / "dest"
    (dest / ".cachd-pull-dead").mkdir(parents=True)
    (dest / ".cachd-pull-dead" / "half").write_text("half")
    assert run("pull", URI, dest, "--socket", daemon.socket).code == 0
    assert tree_of(dest) == FILES


def test_what_a_killed_run_had_in_place_goes_with_the_next(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    """Killed between two renames; the next one gets another revision."""
    daemon.add(URI, FILES)
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "mine.txt").write_text("mine")
    code = """
import os, sys
from cachd.cli import staging
from cachd.cli.main import main
place, count = staging.Staging.place, 0
def dying(self, path):
    global count
    count += 1
    if count == 3:
        os._exit(9)
    place(self, path)
staging.Staging.place = dying
main(sys.argv[1:])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "pull", URI, str(dest), "--socket", str(daemon.socket)],
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 9
    if not os.listxattr(dest / "config.json"):
        pytest.skip("this file system has no extended attributes")
    assert (dest / "a/b/weights.bin").exists()
    daemon.add(URI, {"other.bin": b"o"})
    assert run("pull", URI, dest, "--socket", daemon.socket).code == 0
    assert tree_of(dest) == {"other.bin": b"o", "mine.txt": b"mine"}
    assert not (dest / "a").exists()
    assert os.listxattr(dest / "other.bin") == []


def test_hard_links_only_when_asked_for_with_a_warning(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    model = daemon.add(URI, FILES)
    outcome = run("pull", URI, tmp_path / "d", "--socket", daemon.socket, "--hard-link", "--json")
    assert outcome.json["materialised"]["way"] == "hard-link"
    assert (tmp_path / "d" / "config.json").samefile(model.tree / "config.json")
    assert "changes the cached model" in outcome.err
    again = run("pull", URI, tmp_path / "d", "--socket", daemon.socket, "--json")
    assert again.json["materialised"]["way"] == "already-there"


def test_the_cache_itself_is_recognised_and_never_written(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    model = daemon.add(URI, FILES)
    link = tmp_path / "link"
    link.symlink_to(model.tree)
    for place in (model.tree, link):
        outcome = run("pull", URI, place, "--socket", daemon.socket, "--json")
        assert outcome.json["materialised"]["way"] == "already-there"
    for place in (model.tree / "sub", daemon.root / "x", daemon.root):
        outcome = run("pull", URI, place, "--socket", daemon.socket)
        assert outcome.code == 1
        assert "the destination is the cache itself" in outcome.err
    assert tree_of(model.tree) == FILES
    assert not (daemon.root / "x").exists()


def test_a_broken_stream_is_resumed(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    daemon.add(URI, FILES)
    daemon.script.hide_path = True
    daemon.script.break_files = 1
    outcome = run("pull", URI, tmp_path / "d", "--socket", daemon.socket, "--verify", "--json")
    assert outcome.json["materialised"]["verified"] is True
    assert tree_of(tmp_path / "d") == FILES


def test_an_ask_survives_a_daemon_that_breaks_off(daemon: FakeDaemon, run: Run) -> None:
    daemon.add(URI, FILES)
    daemon.script.break_asks = 2
    daemon.script.not_ready = 2
    assert run("pull", URI, "--socket", daemon.socket).code == 0
    assert len(daemon.script.asks) == 3


def test_an_ask_survives_a_restart(daemon: FakeDaemon, run: Run) -> None:
    daemon.add(URI, FILES)
    daemon.stop()
    starter = threading.Timer(0.5, daemon.start)
    starter.start()
    try:
        assert run("pull", URI, "--socket", daemon.socket, "--wait-daemon", 60).code == 0
    finally:
        starter.join()


def test_a_snapshot_that_went_is_asked_for_again(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    daemon.script.forget_once = True
    assert run("pull", URI, tmp_path / "d", "--socket", daemon.socket).code == 0
    assert len(daemon.script.asks) == 2
    assert daemon.script.leases == {}


def test_a_new_revision_in_mid_copy_leaves_nothing_of_the_old_one(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    daemon.script.hide_path = True
    new = {"config.json": b"[]", "other.bin": b"o" * 100}
    daemon.script.move_after = (1, new)
    dest = tmp_path / "d"
    dest.mkdir()
    (dest / "mine.txt").write_text("mine")
    assert run("pull", URI, dest, "--socket", daemon.socket).code == 0
    assert tree_of(dest) == {**new, "mine.txt": b"mine"}
    assert not (dest / "a").exists()
    assert len(daemon.script.asks) == 2


def test_a_kept_lease_stays(daemon: FakeDaemon, run: Run) -> None:
    daemon.add(URI, FILES)
    outcome = run("pull", URI, "--socket", daemon.socket, "--lease-ttl", 60, "--holder", "me")
    assert outcome.code == 0
    assert daemon.script.leases["lease-0"]["holder"] == "me"
    assert "lease lease-0" in outcome.out


def test_no_wait_returns_at_once(daemon: FakeDaemon, run: Run) -> None:
    outcome = run("pull", URI, "--socket", daemon.socket, "--no-wait", "--json")
    assert outcome.json["state"] == "fetching"
    assert daemon.script.asks[0]["wait"] is False
    assert run("pull", URI, "d", "--socket", daemon.socket, "--no-wait").code == 2


def test_what_goes_with_the_request(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.add(URI, FILES)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    monkeypatch.setenv("STORAGE_ALLOW_PATTERNS", '["*.json"]')
    monkeypatch.setenv("CACHD_PRIORITY", "prefetch")
    options = ("--ignore", "*.bin", "--endpoint", "http://here:9000", "--timeout", "20")
    assert run("pull", URI, "--socket", daemon.socket, *options).code == 0
    sent = daemon.script.asks[0]
    assert 0 < sent.pop("timeout") <= 20
    assert sent == {
        "uri": URI,
        "allow": ["*.json"],
        "ignore": ["*.bin"],
        "credentials": {"access_key_id": "AK", "secret_access_key": "SK"},
        "options": {"endpoint": "http://here:9000"},
        "priority": "prefetch",
    }
    assert run("pull", URI, "--socket", daemon.socket, "--no-forward").code == 0
    assert "credentials" not in daemon.script.asks[1]


def test_a_failure_leaves_a_termination_message(
    daemon: FakeDaemon, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("CACHD_TERMINATION_LOG", str(log))
    outcome = run("pull", "s3://bucket/none", "--socket", daemon.socket, "--json")
    assert outcome.code == 4
    assert log.read_text() == "nothing at s3://bucket/none\nnext: look\ncode: not_found"
    assert outcome.err.endswith("cachd: nothing at s3://bucket/none\n  next: look\n")
    assert outcome.json["error"]["code"] == "not_found"


def test_a_destination_that_may_not_be_written(
    daemon: FakeDaemon, run: Run, tmp_path: Path, another_user: AnotherUser
) -> None:
    daemon.add(URI, FILES)
    run("pull", URI, tmp_path / "warm", "--socket", daemon.socket)
    (tmp_path / "d").mkdir(mode=0o755)
    with another_user():
        outcome = run("pull", URI, tmp_path / "d", "--socket", daemon.socket)
        into_new = run("pull", URI, tmp_path / "d" / "e" / "f", "--socket", daemon.socket)
    assert outcome.code == into_new.code == 1
    assert "can't write to the destination" in outcome.err
    assert list((tmp_path / "d").iterdir()) == []
    assert daemon.script.leases == {}


def test_a_destination_that_cannot_be_is_told_before_anything_is_fetched(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below"):
        outcome = run("pull", URI, tmp_path / place, "--socket", daemon.socket)
        assert outcome.code == 1
        assert "can't write to the destination" in outcome.err
    assert daemon.script.asks == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_cleans_the_destination(
    number: signal.Signals, code: int, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    daemon.script.hide_path = True
    daemon.script.stall_files = True
    dest = tmp_path / "dest"
    dest.mkdir()
    command = [sys.executable, "-m", "cachd", "pull", URI, str(dest), "--socket"]
    with subprocess.Popen(
        [*command, str(daemon.socket)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job has SIGINT ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        deadline = time.monotonic() + 60
        while not list(dest.rglob("weights.bin")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert list(dest.iterdir()) == []
    assert daemon.script.leases == {}


def test_a_lease_is_renewed_while_files_are_copied(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    daemon.script.hide_path = True
    daemon.script.slow_files = 1.0
    options = ("--lease-ttl", 0.6, "--holder", "me")
    assert run("pull", URI, tmp_path / "d", "--socket", daemon.socket, *options).code == 0
    assert daemon.script.renewals >= 3


def test_a_destination_with_things_in_the_way(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    daemon.add(URI, FILES)
    (tmp_path / "file").write_text("x")
    assert run("pull", URI, tmp_path / "file", "--socket", daemon.socket).code == 1
    assert run("pull", URI, tmp_path / "file" / "d", "--socket", daemon.socket).code == 1
    dest = tmp_path / "d"
    (dest / "config.json" / "x").mkdir(parents=True)
    outcome = run("pull", URI, dest, "--socket", daemon.socket)
    assert outcome.code == 1
    assert "a directory is where a file belongs" in outcome.err
    assert tree_of(dest) == {}
    assert [p.name for p in dest.iterdir()] == ["config.json"]
