"""What a newcomer does wrong, and what is said to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cachd.cli.keeping import _plan_text
from cachd.cli.looking import usage_line

if TYPE_CHECKING:
    from tests.cli.conftest import AnotherUser, Run
    from tests.cli.fake_daemon import FakeDaemon

URI = "s3://bucket/model"
FILES = {"config.json": b"{}", "a/weights.bin": b"w" * 2000}
GIB = 1024**3


def cachd(*arguments: object, stdout: object = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cachd", *map(str, arguments)],
        stdout=stdout,  # type: ignore[arg-type]
        stderr=subprocess.PIPE,
        text=True,
    )


def test_output_that_goes_nowhere_is_no_traceback(daemon: FakeDaemon) -> None:
    daemon.add(URI, FILES)
    with Path("/dev/full").open("w") as full:
        process = cachd("ls", "--socket", daemon.socket, stdout=full)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == "cachd: standard output: No space left on device\n"
    read, write = os.pipe()
    os.close(read)
    process = cachd("ls", "--socket", daemon.socket, stdout=write)
    os.close(write)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")


def test_a_target_that_may_not_be_looked_at(
    daemon: FakeDaemon, run: Run, tmp_path: Path, another_user: AnotherUser
) -> None:
    model = daemon.add(URI, FILES)
    (tmp_path / "closed").mkdir(mode=0o700)
    run("export", model.key, tmp_path / "one.tar", "--socket", daemon.socket)
    run("export", model.key, tmp_path / "one", "--socket", daemon.socket)
    for name in ("x.tar", "x", "x.tar.gz"):
        with another_user():
            outcome = run(
                "export", model.key, tmp_path / "closed" / name, "--socket", daemon.socket
            )
        assert outcome.code != 0
        assert "closed" in outcome.err
        assert outcome.err.count("\n  next: ") == 1


def test_what_is_imported_and_can_not_be_read(
    daemon: FakeDaemon, run: Run, tmp_path: Path, another_user: AnotherUser
) -> None:
    outcome = run("import", tmp_path / "none", "--as", URI, "--socket", daemon.socket)
    assert outcome.code == 4
    assert "name a directory with the model's files" in outcome.err
    (tmp_path / "model").mkdir()
    for path in (tmp_path / "m.tar", tmp_path / "model" / "m.bin"):
        path.write_bytes(b"x")
        path.chmod(0o600)
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "inner").chmod(0o700)
    for source in ("m.tar", "model", "outer"):
        with another_user():
            outcome = run("import", tmp_path / source, "--as", URI, "--socket", daemon.socket)
        assert outcome.code == 2
        assert f"can't read {tmp_path}/" in outcome.err
        assert "Permission denied\n  next: cachd runs as uid 65534 here" in outcome.err


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08\x00" + b"x" * 99, b"\xfd7zXZ\x00" + b"x" * 99])
def test_a_damaged_archive_is_called_that(
    daemon: FakeDaemon, run: Run, tmp_path: Path, head: bytes
) -> None:
    (tmp_path / "m.tar.x").write_bytes(head)
    outcome = run("import", tmp_path / "m.tar.x", "--as", URI, "--socket", daemon.socket)
    assert outcome.code == 2
    assert "is the archive whole?" in outcome.err


def test_an_import_says_where_the_model_went(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.bin").write_bytes(b"x")
    outcome = run("import", tmp_path / "model", "--as", URI, "--socket", daemon.socket)
    assert "origin:    fake" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["plan"], {}, "cachd plan --help"),
        (["plan", URI], {"STORAGE_CONFIG": "{bad"}, "docs/sources.md"),
        (["plan", URI], {"S3_CONNECT_TIMEOUT": "abc"}, "docs/sources.md"),
        (["pull", URI, "x", "--no-wait"], {}, "cachd pull --help"),
    ],
)
def test_a_slip_on_the_command_line_is_no_matter_of_the_api(
    daemon: FakeDaemon,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variables: dict[str, str],
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    outcome = run(*arguments, "--socket", daemon.socket)
    assert outcome.code == 2
    assert said in outcome.err
    assert "openapi" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--"], "cachd: name a command\n  next: see cachd --help\n"),
        (["rm"], "cachd rm: the following arguments are required: KEY|URI\n"),
        (["nonsense"], "cachd: argument COMMAND: invalid choice: 'nonsense'"),
    ],
)
def test_a_usage_error_gives_the_reason_first(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    from cachd.cli.main import main

    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--quota", "300%"], ["store.quota: a share is", "correct --quota;"]),
        (["--quota", "200"], ["200 bytes? write a unit, such as 200GiB", "correct --quota;"]),
        (["--quota", "lots"], ["such as 200GiB or 80%"]),
        (["--set", "fetch.connections=many"], ["correct --set fetch.connections;"]),
        (["--set", "fetch.part_size=big"], ["such as 16MiB", "correct --set fetch.part_size;"]),
        (["--set", "store.qouta=1"], ["--set store.qouta: no such setting (did you mean store.q"]),
        (["--set", "store.low_watermark=99"], ["--set store.low_watermark;"]),
        (["--set", "sources.s3.endpoint=minio:9000"], ["write http:// or https://"]),
    ],
)
def test_a_wrong_option_is_blamed_itself(
    run: Run, tmp_path: Path, arguments: list[str], said: list[str]
) -> None:
    outcome = run("serve", "--root", tmp_path / "r", *arguments)
    assert outcome.code == 2
    for text in said:
        assert text in outcome.err
    assert "environment" not in outcome.err


def test_a_registry_of_no_kind_is_refused_at_the_start(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"name": "main", "kind": "kubeflow", "url": "http://registry:8080"}
    monkeypatch.setenv("CACHD_SOURCES_REGISTRIES", json.dumps([rule]))
    for command in (["check-config"], ["serve", "--root", tmp_path / "r"]):
        outcome = run(*command)
        assert outcome.code == 2
        assert "'kubeflow'" in outcome.err
        assert "mlflow, model-registry" in outcome.err
    assert not (tmp_path / "r").exists()
    monkeypatch.setenv("CACHD_SOURCES_REGISTRIES", json.dumps([{**rule, "kind": "mlflow"}]))
    assert run("check-config").code == 0


def test_a_wrong_variable_is_blamed_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHD_FETCH_CONNECTIONS", "many")
    assert "next: correct CACHD_FETCH_CONNECTIONS;" in run("check-config").err


def test_check_config_speaks_as_people_write(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "c.yaml"
    file.write_text("store: {quota: 200Gi, free_floor: 1234567}\n")
    outcome = run("check-config", file)
    assert outcome.code == 0
    assert "quota: 200GiB\n" in outcome.out
    assert "free_floor: '1234567'\n" in outcome.out
    assert "part_size: 16MiB\n" in outcome.out
    again = tmp_path / "again.yaml"
    again.write_text(outcome.out)
    assert run("check-config", again).out == outcome.out
    for broken in ("store: {quota: [\n", "a: \x1b[2J\n", "a: b: c\n"):
        file.write_text(broken)
        outcome = run("check-config", file)
        assert outcome.code == 2
        assert "is no YAML: " in outcome.err
        assert "\N{REPLACEMENT CHARACTER}" not in outcome.err
        assert "\x1b" not in outcome.err


def test_the_floor_is_named_where_it_binds() -> None:
    space = {"quota": 100 * GIB, "allocated": 0, "free": 60 * GIB, "free_floor": 45 * GIB}
    assert "floor: 45.0 GiB left to others on the volume" in usage_line(space, 0)
    answer = {**space, "fits": False, "held_by": [{"what": "others", "key": "", "bytes": 1}]}
    text = _plan_text(answer)
    assert "floor:   45.0 GiB left to others on the volume" in text
    assert "other files on the volume" in text
    assert "floor" not in usage_line({**space, "quota": 10 * GIB}, 0)
    assert "of 50.0 GiB" in usage_line({**space, "volume_size": 50 * GIB}, 0)


def test_a_missing_daemon_is_named_at_once(tmp_path: Path) -> None:
    socket = tmp_path / "none.sock"
    process = cachd("pull", URI, "--socket", socket, "--wait-daemon", 300)
    assert process.stderr is not None
    guard = threading.Timer(50, process.kill)
    guard.start()
    started = time.monotonic()
    try:
        line = process.stderr.readline()
    finally:
        guard.cancel()
        process.kill()
        process.communicate()
    assert line == f"cachd: no daemon: there is no socket at {socket}; waiting up to 300 s for it\n"
    assert time.monotonic() - started < 40


def test_a_uri_is_found_by_its_key_without_the_list(daemon: FakeDaemon, run: Run) -> None:
    model = daemon.add(URI, FILES)
    assert run("show", URI, "--socket", daemon.socket).code == 0
    assert ("GET", "/v1/models") not in daemon.script.requests
    assert ("GET", f"/v1/models/{model.key}") in daemon.script.requests
    outcome = run("show", "s3://none/such", "--socket", daemon.socket)
    assert outcome.code == 4
    assert "or this caller may not see it" in outcome.err
