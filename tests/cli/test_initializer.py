"""KServe's argument form, options by environment, and the reason that Kubernetes is left."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cachd.cli import termination, variables
from cachd.cli.parser import build
from cachd.environment import CLIENT_VARIABLES, PULL_VARIABLES
from cachd.errors import AccessError, InvalidError
from cachd.settings.tree import variable_name, walk_fields
from tests.disk import tree_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.cli.fake_daemon import FakeDaemon

URI, OTHER = "s3://bucket/model", "cachd+s3://bucket/adapter"
FILES = {"config.json": b"{}", "a/weights.bin": b"w" * 2000}


def pull_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = build().parse_args(["pull", URI]).parser
    return parser


def filled(environ: dict[str, str], *arguments: str) -> argparse.Namespace:
    parsed = build().parse_args(["pull", *arguments, URI])
    variables.fill(parsed.parser, parsed, environ)
    return parsed


@pytest.fixture(autouse=True)
def _at(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHD_SOCKET", str(daemon.socket))
    daemon.add(URI, FILES)
    daemon.add(OTHER, {"adapter.bin": b"a"})


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("CACHD_TERMINATION_LOG", str(log))
    return log


# --- the arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_odd_arguments_are_a_usage_error(
    count: int, daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    arguments = [URI, tmp_path / "a", OTHER, tmp_path / "b", URI][:count]
    outcome = run(*arguments)
    assert outcome.code == 1
    assert outcome.out.startswith("usage: cachd URI DEST [URI DEST…]")
    assert outcome.err == ""
    assert daemon.script.asks == []


def test_pairs_are_done_in_order(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    here, there = tmp_path / "mnt/models", tmp_path / "mnt/deep/er/adapter"
    assert run(URI, here, OTHER, there).code == 0
    assert tree_of(here) == FILES
    assert tree_of(there) == {"adapter.bin": b"a"}
    assert [ask["uri"] for ask in daemon.script.asks] == [URI, OTHER]


def test_the_first_failure_ends_it_and_is_the_last_that_is_said(
    daemon: FakeDaemon, run: Run, tmp_path: Path, message: Path
) -> None:
    outcome = run(URI, tmp_path / "a", "s3://bucket/none", tmp_path / "b", OTHER, tmp_path / "c")
    assert outcome.code == 1
    assert tree_of(tmp_path / "a") == FILES
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()
    assert outcome.err.endswith("cachd: nothing at s3://bucket/none\n  next: look\n")
    assert message.read_text().startswith("nothing at s3://bucket/none\nnext: look\n")


def test_every_failure_is_1_in_this_form_and_has_its_own_code_in_the_other(
    run: Run, tmp_path: Path
) -> None:
    assert run("s3://bucket/none", tmp_path / "d").code == 1
    assert run("pull", "s3://bucket/none", tmp_path / "d").code == 4


@pytest.mark.parametrize("make", ["file://{}", "{}"])
def test_local_paths_come_without_a_daemon(
    make: str, daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.stop()
    (tmp_path / "src").mkdir()
    (tmp_path / "src/m.bin").write_bytes(b"m")
    assert run(make.format(tmp_path / "src"), tmp_path / "mnt").code == 0
    assert tree_of(tmp_path / "mnt") == {"m.bin": b"m"}
    assert run(make.format(tmp_path / "none"), tmp_path / "mnt2").code == 1


def test_a_command_is_never_taken_for_a_uri(run: Run, tmp_path: Path) -> None:
    """What has ``://`` or begins with a slash is no command, and nothing else is a URI."""
    with pytest.raises(SystemExit) as caught:
        run("bucket/model", tmp_path / "d")
    assert caught.value.code == 2
    assert run("ls").code == 0


def test_an_interrupted_initializer_is_a_failure(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.script.hide_path = daemon.script.stall_files = True
    with subprocess.Popen(
        [sys.executable, "-m", "cachd", URI, str(tmp_path / "d")], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "d").rglob("weights.bin")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.endswith("cachd: terminated\n")
    assert not (tmp_path / "d").exists()


def test_heartbeats_say_how_far_it_is(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.script.hide_path = True
    daemon.script.hold_files = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", "cachd", URI, str(tmp_path / "d")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CACHD_HEARTBEAT": "0.1"},
    ) as process:
        assert process.stderr is not None
        lines = []
        try:
            while not lines or not lines[-1].startswith("cachd: copying "):
                lines.append(process.stderr.readline())
                assert lines[-1], "it ended"
        finally:
            daemon.script.hold_files.set()
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    text = "".join(lines) + rest
    lines = text.splitlines()
    assert lines[0] == f"cachd: {URI} → {tmp_path / 'd'}"
    beats = [line for line in lines if line.startswith("cachd: copying ")]
    assert " of 1.96 KiB (" in beats[0]
    assert "0 of 2 files" in beats[0]
    assert "so far" in beats[0]
    assert "\r" not in text


# --- options by environment ---------------------------------------------------------------


def test_every_option_is_a_variable_and_none_is_a_setting_of_the_daemons() -> None:
    names = {variables.variable_of(action) for action in variables.options_of(pull_parser())}
    assert names == PULL_VARIABLES
    shared = {variable_name(path) for path, _, _ in walk_fields()} & CLIENT_VARIABLES
    assert shared == {"CACHD_SOCKET", "CACHD_ADMIN_SOCKET"}


def test_no_option_has_a_default_that_hides_its_variable() -> None:
    defaults = {action.dest: action.default for action in variables.options_of(pull_parser())}
    assert {name for name, value in defaults.items() if value not in (None, False, [])} == set()


def test_variables_are_read_as_options_are() -> None:
    digest = "sha256:" + "ab" * 32
    got = filled(
        {
            "CACHD_ALLOW": '["*.json", "*.safetensors"]',
            "CACHD_IGNORE": "*.bin, *.h5",
            "CACHD_DIGEST": f"a/x=y={digest}, b={digest}\n c={digest}",
            "CACHD_MODEL_DIGEST": digest,
            "CACHD_PRIORITY": "prefetch",
            "CACHD_FALLBACK": "true",
            "CACHD_QUIET": "0",
            "CACHD_WAIT_DAEMON": "7.5",
            "CACHD_HEADER": "X-A: 1, 2\nX-B: 3",
            "CACHD_READONLY": "false",
        }
    )
    assert got.allow == ["*.json", "*.safetensors"]
    assert got.ignore == ["*.bin", "*.h5"]
    assert got.digest == [("a/x=y", digest), ("b", digest), ("c", digest)]
    assert (got.model_digest, got.priority, got.fallback, got.quiet) == (
        digest, "prefetch", True, False,
    )  # fmt: skip
    assert got.wait_daemon == 7.5
    assert got.header == [("X-A", "1, 2"), ("X-B", "3")]
    assert got.readonly == "false"


def test_objects_hold_names_that_lists_cannot() -> None:
    digest = "sha1:" + "ab" * 20
    got = filled({"CACHD_DIGEST": json.dumps({"a,b": digest}), "CACHD_HEADER": '{"X": "a\\tb"}'})
    assert got.digest == [("a,b", digest)]
    assert got.header == [("X", "a\tb")]


def test_an_empty_variable_counts_as_unset() -> None:
    """The downward API gives that for an annotation that isn't there."""
    empty = filled(dict.fromkeys(PULL_VARIABLES, ""))
    assert vars(empty).keys() == vars(filled({})).keys()
    assert {k: v for k, v in vars(empty).items() if k != "parser"} == {
        k: v for k, v in vars(filled({})).items() if k != "parser"
    }


def test_the_command_line_wins() -> None:
    environ = {"CACHD_WAIT_DAEMON": "9", "CACHD_ALLOW": "*.bin"}
    got = filled(environ, "--wait-daemon", "0", "--allow", "*.json")
    assert (got.wait_daemon, got.allow) == (0.0, ["*.json"])


@pytest.mark.parametrize("text", ["true", "True", "FALSE", "no", "x"])
def test_only_false_makes_a_private_copy_as_kserve_has_it(text: str) -> None:
    assert filled({"CACHD_READONLY": text}).readonly == "true"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("CACHD_PRIORITY", "high", "interactive or prefetch"),
        ("CACHD_WAIT_DAEMON", "soon", "no number of seconds"),
        ("CACHD_FALLBACK", "perhaps", "true or false"),
        ("CACHD_DIGEST", "a", "PATH=ALGORITHM:HEX"),
        ("CACHD_DIGEST", "{", "no JSON object"),
        ("CACHD_MODEL_DIGEST", "md5:" + "a" * 32, "must be a sha256"),
        ("CACHD_VIEW", "maybe", "never or auto or always"),
    ],
)
def test_a_variable_that_cannot_be_meant_is_named(
    name: str, text: str, said: str, run: Run, monkeypatch: pytest.MonkeyPatch, message: Path
) -> None:
    monkeypatch.setenv(name, text)
    outcome = run("pull", URI)
    assert outcome.code == 2
    assert f"the environment variable {name} can't be used" in outcome.err
    assert said in outcome.err
    assert name in message.read_text()
    assert run(URI, "d").code == 1


def test_a_header_is_not_repeated_when_it_is_wrong() -> None:
    with pytest.raises(InvalidError) as caught:
        filled({"CACHD_HEADER": "secret-token-2718"})
    assert "2718" not in str(caught.value.to_wire())


def test_a_services_own_options_come_from_its_annotations(
    daemon: FakeDaemon, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = "sha256:" + "ab" * 32
    monkeypatch.setenv("STORAGE_ALLOW_PATTERNS", "*.bin")
    monkeypatch.setenv("CACHD_ALLOW", "*.json")
    monkeypatch.setenv("CACHD_IGNORE", "")
    monkeypatch.setenv("CACHD_PRIORITY", "")
    monkeypatch.setenv("CACHD_DIGEST", f"a={digest},b={digest}")
    assert run(URI, tmp_path / "d").code == 0
    (asked,) = daemon.script.asks
    assert asked["allow"] == ["*.json"]
    assert "ignore" not in asked
    assert asked["priority"] == "interactive"
    assert asked["digests"] == {"a": digest, "b": digest}


def test_the_token_goes_with_every_call_and_is_read_anew(
    daemon: FakeDaemon, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("CACHD_TOKEN_FILE", str(token))
    daemon.script.hide_path = True
    assert run(URI, tmp_path / "d").code == 0
    assert set(daemon.script.authorizations) == {""}
    daemon.script.authorizations.clear()
    token.write_text("first-token-3141\n")
    outcome = run(URI, tmp_path / "d")
    assert set(daemon.script.authorizations) == {"Bearer first-token-3141"}
    assert len(daemon.script.authorizations) >= 4
    token.write_text("second")
    assert run("ls").code == 0
    assert daemon.script.authorizations[-1] == "Bearer second"
    assert "3141" not in outcome.out + outcome.err


# --- the reason ---------------------------------------------------------------------------


def test_the_message_says_what_where_and_what_next() -> None:
    error = AccessError("the origin refuses", hint="check the secret", request_id="r1")
    environ = {"POD_NAME": "llama-0", "POD_NAMESPACE": "serving"}
    uri = "https://user:word@host/m.bin?X-Amz-Signature=5f3e"
    assert termination.message(error, uri, environ).splitlines() == [
        "https://host/m.bin: the origin refuses",
        "next: check the secret",
        "code: access_denied, request r1",
        "log: kubectl logs llama-0 -n serving --all-containers",
    ]


def test_the_message_fits(message: Path) -> None:
    termination.leave("ü" * 4000)
    data = message.read_bytes()
    assert len(data) <= termination.LIMIT
    assert data.decode().endswith("ü…")
    termination.leave("short")
    assert message.read_text() == "short"


def test_without_the_file_the_log_is_all_there_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHD_TERMINATION_LOG", str(tmp_path / "none"))
    outcome = run("s3://bucket/none", tmp_path / "d")
    assert outcome.err.splitlines()[-2:] == ["cachd: nothing at s3://bucket/none", "  next: look"]
    assert not (tmp_path / "none").exists()


def test_a_message_that_cannot_be_written_is_no_second_failure(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHD_TERMINATION_LOG", str(tmp_path))
    outcome = run("s3://bucket/none", tmp_path / "d")
    assert outcome.code == 1
    assert f"can't write {tmp_path}" in outcome.err
    assert outcome.err.endswith("  next: look\n")


def test_a_defect_leaves_its_kind(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: Path
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise KeyError("secret-2718")

    monkeypatch.setattr("cachd.cli.pull.bring", broken)
    with pytest.raises(KeyError):
        run(URI, tmp_path / "d")
    assert message.read_text() == f"{URI}: cachd failed (KeyError); see the log"
