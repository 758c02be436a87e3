"""A rules file that changes, breaks and comes back, while the daemon runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Daemon, eventually
from tests.process.origin import CountingOrigin
from tests.process.ruling import ask, pods


@pytest.mark.slow
def test_the_rules_file_is_read_again(make_ruled, origin: CountingOrigin, tmp_path: Path):
    """As kubelet changes a ConfigMap: a link to a directory is swapped."""
    origin.bodies["/m.bin"] = b"x"
    uri = f"{origin.url}/m.bin"
    mount = tmp_path / "mount"
    mount.mkdir()

    def publish(name: str, text: str) -> None:
        (mount / name).mkdir()
        (mount / name / "rules.yaml").write_text(text)
        (mount / "..new").symlink_to(name)
        (mount / "..new").rename(mount / "..data")

    publish("..1", "rules: []\n")
    (mount / "rules.yaml").symlink_to("..data/rules.yaml")
    daemon = make_ruled(ACCESS_RULES_FILE=str(mount / "rules.yaml"))
    assert ask(daemon, uri).status == 200
    publish("..2", f"- {{name: none, effect: deny, uris: ['{origin.url}/*']}}\n")
    eventually(lambda: ask(daemon, uri).status == 403)
    assert daemon.metric("cachd_access_rules") == 1

    publish("..3", "- {name: none, effect: deny\n")
    eventually(lambda: daemon.metric("cachd_access_rules_stale") == 1)
    assert ask(daemon, uri).status == 403
    ready = pods(daemon, "GET", "/readyz").json()
    assert ready["ready"] is True
    assert any("the access rules are those of before" in text for text in ready["degraded"])
    assert daemon.metric("cachd_access_rules_reads_total", result="failed") >= 1

    for broken in ("", "- {name: x, effect: maybe}", "- {name: x}\n- {name: x}", "{a: 1}", "["):
        before = daemon.log().count("the access rules stay as they were")
        publish(f"..x{len(broken)}", broken)
        eventually(lambda n=before: daemon.log().count("the access rules stay as they were") > n)
        assert ask(daemon, uri).status == 403
    (mount / "..data").unlink()
    eventually(lambda: "can't be read" in daemon.log())
    assert ask(daemon, uri).status == 403

    publish("..4", "[]")
    eventually(lambda: ask(daemon, uri).status == 200)
    assert daemon.metric("cachd_access_rules_stale") == 0
    assert pods(daemon, "GET", "/readyz").json()["degraded"] == []


def test_a_hangup_reads_the_rules_at_once(make_ruled, origin: CountingOrigin, tmp_path: Path):
    origin.bodies["/m.bin"] = b"x"
    file = tmp_path / "rules.yaml"
    file.write_text("[]")
    daemon = make_ruled({"name": "first", "uris": ["s3://*"]}, ACCESS_RULES_FILE=str(file))
    assert ask(daemon, f"{origin.url}/m.bin").status == 200
    assert daemon.process is not None
    # A file that hasn't changed is read for no other reason.
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: daemon.metric("cachd_access_rules_reads_total", result="ok") == 1)
    file.write_text("[{name: none, effect: deny}]")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: ask(daemon, f"{origin.url}/m.bin").status == 403)
    assert daemon.metric("cachd_access_rules") == 2
    assert daemon.process.poll() is None


@pytest.mark.parametrize("text", [None, "- {name: x, verb: [read]}", "- {name: first}"])
def test_a_rules_file_that_is_broken_at_the_start(tmp_path: Path, text: str | None):
    file = tmp_path / "rules.yaml"
    if text is not None:
        file.write_text(text)
    rules = json.dumps([{"name": "first"}])
    settings = {"ACCESS_RULES_FILE": str(file), "ACCESS_RULES": rules}
    daemon = Daemon(tmp_path / "d", settings=settings)
    try:
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 2
        assert "the rules file" in daemon.log()
    finally:
        daemon.close()


def test_a_rule_that_changes_in_mid_fetch(make_ruled, origin: CountingOrigin, tmp_path: Path):
    origin.bodies["/m.bin"] = os.urandom(8 << 20)
    file = tmp_path / "rules.yaml"
    file.write_text("[]")
    daemon = make_ruled(ACCESS_RULES_FILE=str(file))
    uri = f"{origin.url}/m.bin"
    origin.hold(after=1 << 20)
    waiting = subprocess.Popen(
        [sys.executable, "-m", "cachd", "pull", uri, "--socket", str(daemon.socket), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert origin.held.wait(60)
    file.write_text("[{name: none, effect: deny}]")
    eventually(lambda: daemon.metric("cachd_access_rules") == 1)
    origin.release()
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 5
    assert b"denies it" in err
