"""Every other command against a daemon that speaks the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cachd.cli import exits
from cachd.cli.looking import metadata_facts
from cachd.cli.top import screen, usage_bar
from cachd.errors import CachdError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import AnotherUser, Run
    from tests.cli.fake_daemon import FakeDaemon

URI = "s3://bucket/model"
FILES = {"config.json": b"{}", "a/weights.bin": b"w" * 2000}


def classes(root: type[CachdError] = CachdError) -> set[type[CachdError]]:
    return {root}.union(*(classes(sub) for sub in root.__subclasses__()))


def test_every_error_has_an_exit_code() -> None:
    assert {kind.code for kind in classes()} == set(exits.EXIT_OF_CODE)
    assert set(exits.EXIT_OF_CODE.values()) <= set(exits.MEANING)
    assert exits.OK not in exits.EXIT_OF_CODE.values()


def test_ls_and_show(daemon: FakeDaemon, run: Run) -> None:
    model = daemon.add(URI, FILES)
    outcome = run("ls", "--socket", daemon.socket)
    assert model.key in outcome.out
    assert "1 model, 512 B of 1.00 KiB (50 %)" in outcome.out
    assert run("ls", "--socket", daemon.socket, "--json").json["models"][0]["uri"] == URI
    for name in (model.key, URI, "cachd+" + URI):
        outcome = run("show", name, "--socket", daemon.socket)
        assert outcome.code == 0
        assert "a/weights.bin" in outcome.out
    assert run("show", URI, "--socket", daemon.socket, "--json").json["key"] == model.key


def test_metadata_is_told_in_order_and_on_one_line_each() -> None:
    told = metadata_facts(
        {
            "property.team": "search",
            "zone": "b",
            "description": "two\nlines\x1b[2J",
            "name": "llama",
        }
    )
    assert told.splitlines() == [
        "name:           llama",
        "description:    two lines\N{REPLACEMENT CHARACTER}[2J",
        "property.team:  search",
        "zone:           b",
    ]
    assert metadata_facts({}) == ""


def test_a_model_that_is_not_there(daemon: FakeDaemon, run: Run) -> None:
    assert run("show", "s3://none/such", "--socket", daemon.socket).code == 4
    assert run("rm", "0" * 16, "--socket", daemon.socket).code == 4
    assert run("rm", "nonsense", "--socket", daemon.socket).code == 2


def test_one_uri_of_two_origins_is_ambiguous(daemon: FakeDaemon, run: Run) -> None:
    model = daemon.add(URI, FILES)
    daemon.models["f" * 32] = type(model)("f" * 32, URI, "r", model.tree, model.manifest)
    outcome = run("rm", URI, "--socket", daemon.socket)
    assert outcome.code == 2
    assert model.key in outcome.err
    assert "f" * 32 in outcome.err
    assert len(daemon.models) == 2


def test_rm_pin_unpin_gc(daemon: FakeDaemon, run: Run) -> None:
    model = daemon.add(URI, FILES)
    assert run("pin", URI, "--socket", daemon.socket).out == f"pinned {model.key}\n"
    assert run("unpin", model.key, "--socket", daemon.socket).out == f"unpinned {model.key}\n"
    assert "0 models would be evicted" in run("gc", "--dry-run", "--socket", daemon.socket).out
    assert run("rm", URI, "--socket", daemon.socket).out == f"removed {model.key}, 1.96 KiB freed\n"
    assert daemon.models == {}


def test_plan(daemon: FakeDaemon, run: Run) -> None:
    victim = {"key": "k", "uri": "u", "revision": "r", "bytes": 1024, "reason": "lru"}
    daemon.script.plan = {"result": "miss", "fits": True, "needed": 5, "evict": [victim]}
    outcome = run("plan", "--bytes", "2GiB", "--socket", daemon.socket)
    assert outcome.code == 0
    assert "it fits after 1 eviction (1.00 KiB)" in outcome.out
    assert daemon.script.asks == [{"bytes": 2 * 1024**3}]
    held = {"what": "lease", "key": "k", "bytes": 2048}
    daemon.script.plan = {"result": "miss", "fits": False, "shortfall": 9, "held_by": [held]}
    outcome = run("plan", URI, "--socket", daemon.socket)
    assert outcome.code == 6
    assert "2.00 KiB" in outcome.out
    assert run("plan", "--socket", daemon.socket).code == 2


def test_top_once(daemon: FakeDaemon, run: Run) -> None:
    daemon.add(URI, FILES)
    assert URI in run("top", "--once", "--socket", daemon.socket).out
    assert run("top", "--json", "--socket", daemon.socket).json["store"]["quota"] == 1024


def test_top_shows_fetches_within_the_screen() -> None:
    progress = {"bytes": 1, "total": 4, "rate": 1.0, "eta": 3.0, "files_done": 0, "files_total": 9}
    fetching = {"key": "k", "uri": "s3://b/m", "state": "fetching", "progress": progress}
    answer = {"models": [fetching] * 50, "store": {"allocated": 50, "quota": 100}}
    lines = screen(answer, 80, 10).splitlines()
    assert len(lines) == 10
    assert "25%" in lines[4]
    assert usage_bar({"allocated": 50, "reserved": 25, "quota": 100}, 22) == (
        "[##########=====.....]"
    )
    assert usage_bar({}, 80) == ""


def test_version(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    assert run("version", "--socket", daemon.socket, "--json").json["daemon"] == "9.9.9"
    assert run("version", "--socket", tmp_path / "none").code == 0


def test_an_administrators_socket_is_preferred(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "admin.sock").symlink_to(daemon.socket)
    assert run("ls", "--socket", tmp_path / "cachd.sock.none").code == 0
    assert run("ls", "--socket", daemon.socket, "--admin-socket", tmp_path / "x").code == 3


def test_the_socket_comes_from_the_environment(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHD_SOCKET", str(daemon.socket))
    monkeypatch.setenv("CACHD_SOKET", "x")
    monkeypatch.setenv("CACHD_PORT", "tcp://10.0.0.1:80")
    outcome = run("ls")
    assert outcome.code == 0
    assert outcome.err == (
        "cachd: warning: the environment variable CACHD_SOKET means nothing here "
        "(did you mean CACHD_SOCKET?)\n"
    )


def test_a_deep_socket_path(tmp_path: Path, run: Run) -> None:
    from tests.cli.fake_daemon import FakeDaemon

    short = FakeDaemon(tmp_path / "root", tmp_path / "s.sock")
    short.start()
    deep = tmp_path / ("d" * 100) / "e"
    deep.mkdir(parents=True)
    try:
        (deep / "cachd.sock").symlink_to(short.socket)
        assert run("ls", "--socket", deep / "cachd.sock").code == 0
    finally:
        short.stop()


def test_errors_of_the_connection(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    outcome = run("ls", "--socket", tmp_path / "none", "--json")
    assert outcome.code == 3
    assert "there is no socket at" in outcome.err
    assert "cachd serve" in outcome.err
    assert outcome.json["error"]["detail"]["reason"] == "absent"
    daemon.stop()
    import socket

    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "dead.sock"))
    outcome = run("ls", "--socket", tmp_path / "dead.sock")
    assert outcome.code == 3
    assert "nobody listens" in outcome.err


def test_permission_denied_is_told_apart_and_not_waited_for(
    daemon: FakeDaemon, run: Run, another_user: AnotherUser
) -> None:
    daemon.add(URI, FILES)
    run("pull", URI, "--socket", daemon.socket)
    daemon.socket.chmod(0o600)
    with another_user():
        outcome = run("pull", URI, "--socket", daemon.socket, "--wait-daemon", 60)
    assert outcome.code == 3
    assert "may not open the socket" in outcome.err


def test_the_administrators_socket_of_somebody_else(
    daemon: FakeDaemon, run: Run, tmp_path: Path, another_user: AnotherUser
) -> None:
    daemon.add(URI, FILES)
    run("pin", URI, "--socket", daemon.socket)
    admin = tmp_path / "admin.sock"
    admin.touch(mode=0o600)
    with another_user():
        assert run("ls", "--socket", daemon.socket).code == 0
        outcome = run("pin", URI, "--socket", daemon.socket)
    assert outcome.code == 5
    assert "may not open the administrators' socket" in outcome.err


def test_something_else_behind_the_socket(daemon: FakeDaemon, run: Run) -> None:
    daemon.script.problem = (500, {})
    assert run("ls", "--socket", daemon.socket).code == 1
    daemon.script.problem = (
        403,
        {"code": "forbidden", "detail": "no\x1b[2J", "hint": "ask", "request_id": "r1"},
    )
    outcome = run("ls", "--socket", daemon.socket)
    assert outcome.code == 5
    assert outcome.err == "cachd: no\N{REPLACEMENT CHARACTER}[2J\n  next: ask\n  request: r1\n"


def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str]) -> None:
    from cachd.cli.main import main

    for arguments in (["pull"], ["nonsense"], ["pull", "u", "--header", "secret"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "secret" not in capsys.readouterr().err.replace("'--header'", "")


def test_check_config(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    outcome = run("check-config")
    assert outcome.code == 0
    assert f"# root: {tmp_path}/cache/cachd" in outcome.out
    assert f"# socket: {tmp_path}/cachd/cachd.sock" in outcome.out
    good = tmp_path / "good.yaml"
    good.write_text("store: {quota: 50%}\n")
    assert run("check-config", good, "--json").json["settings"]["store"]["quota"] == "50%"
    bad = tmp_path / "bad.yaml"
    bad.write_text("store: {quotta: 50%, low_watermark: 99}\n")
    outcome = run("check-config", bad)
    assert outcome.code == 2
    assert "no such setting (did you mean store.quota?)" in outcome.err
    monkeypatch.setenv("CACHD_CONFIG", str(bad))
    assert run("check-config").code == 2
    monkeypatch.delenv("CACHD_CONFIG")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CACHD_STORE_ROOT", str(tmp_path / "file" / "x"))
    outcome = run("check-config")
    assert outcome.code == 1
    assert "is no directory" in outcome.err


def test_serve_refuses_wrong_settings(run: Run, tmp_path: Path) -> None:
    assert run("serve", "--set", "store.quotta=1").code == 2
    assert run("serve", "--set", "store.quota").code == 2
    assert run("serve", "--quota", "many", "--root", tmp_path / "r").code == 2
    assert not (tmp_path / "r").exists()


def test_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run("key", URI)
    assert plain.code == 0
    assert len(plain.out.strip()) == 16
    assert run("key", "cachd+" + URI).out == plain.out
    other = run("key", URI, "--endpoint", "http://127.0.0.1:9000")
    assert len(other.out.strip()) == 32
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert run("key", URI).out == other.out
    assert run("key", URI, "--no-forward", "--json").json["key"] == plain.out.strip()
    assert run("key", "nonsense://x").code == 2


def test_json_of_an_interrupted_top_is_plain(daemon: FakeDaemon, run: Run) -> None:
    assert json.loads(run("ls", "--json", "--socket", daemon.socket).out)["models"] == []
