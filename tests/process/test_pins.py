"""Digests that callers pin: no other bytes reach them, and nobody's pin harms anybody else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, UnixConnection, eventually, running
from tests.process.origin import CountingOrigin
from tests.process.test_pull import pull
from tests.servers.s3 import S3Server

MIB = 1024 * 1024
WRONG = "sha256:" + "0" * 64


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def stories(daemon: Daemon) -> list[Path]:
    return sorted((daemon.root / "quarantine").glob("*/story.json"))


def snapshots(daemon: Daemon) -> list[Path]:
    return sorted((daemon.root / "snapshots").glob("*/*/tree"))


@pytest.mark.parametrize("size", [0, 1000, 20 * MIB])
def test_the_right_pin_is_checked_and_kept(
    daemon: Daemon, origin: CountingOrigin, size: int
) -> None:
    body = origin.bodies["/m.bin"] = os.urandom(size)
    uri = f"{origin.url}/m.bin"
    pins = {
        "sha256": hashlib.sha256(body).hexdigest(),
        "sha1": hashlib.sha1(body).hexdigest(),
        "git-sha1": hashlib.sha1(b"blob %d\0" % size + body).hexdigest(),
        "md5": hashlib.md5(body).hexdigest(),
    }
    for algorithm, value in pins.items():
        reply = daemon.ask(uri, digests={"m.bin": f"{algorithm}:{value}"})
        assert reply.status == 200, reply.body
        wrong = daemon.ask(uri, digests={"m.bin": f"{algorithm}:{'1' * len(value)}"})
        assert (wrong.status, wrong.json()["code"]) == (422, "digest_mismatch")
        assert wrong.json()["expected"] == f"{algorithm}:{'1' * len(value)}"
        assert wrong.json()["seen"] == f"{algorithm}:{value}"
        assert wrong.json()["path"] == "m.bin"
    key = reply.json()["key"]
    shown = daemon.admin("GET", f"/v1/models/{key}").json()["manifest_files"][0]["digests"]
    assert shown["sha256"] == pins["sha256"]
    assert origin.sent["/m.bin"] == size
    assert stories(daemon) == []


def test_bytes_that_contradict_the_only_pin_go_to_quarantine(
    daemon: Daemon, origin: CountingOrigin
) -> None:
    body = origin.bodies["/m.bin"] = os.urandom(20 * MIB)
    uri = f"{origin.url}/m.bin"
    reply = daemon.ask(uri, digests={"m.bin": WRONG})
    assert (reply.status, reply.json()["code"]) == (422, "digest_mismatch")
    assert snapshots(daemon) == []
    assert list((daemon.root / "ingest").iterdir()) == []
    (story,) = stories(daemon)
    assert WRONG in story.read_text()
    assert daemon.metric("cachd_digest_mismatches_total", against="pin") == 1
    assert (story.parent / "data").read_bytes() == body
    # Nothing is left to be gone on with: it is fetched from the start.
    assert daemon.ask(uri, digests={"m.bin": sha256(body)}).status == 200
    assert origin.sent["/m.bin"] == 2 * len(body)


class Asker:
    """An ask that is followed line by line, in a thread. ``boarded``: it waits for a fetch."""

    def __init__(self, daemon: Daemon, uri: str, **pins: Any) -> None:
        self.boarded = threading.Event()
        self.end: dict[str, Any] = {}
        self._connection = UnixConnection(daemon.socket)
        self._connection.request(
            "POST",
            "/v1/models",
            json.dumps({"uri": uri, **pins}),
            {"Accept": "application/x-ndjson"},
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._connection.getresponse():
            self.end = json.loads(line)
            if self.end["event"] == "progress":
                self.boarded.set()

    def result(self) -> dict[str, Any]:
        self._thread.join(60)
        self._connection.close()
        return self.end


@pytest.mark.parametrize("first", ["right", "wrong", "none"])
def test_callers_of_one_fetch_with_different_pins(
    daemon: Daemon, origin: CountingOrigin, first: str
) -> None:
    body = origin.bodies["/m.bin"] = os.urandom(20 * MIB)
    origin.hold(after=MIB)
    pins = {"right": sha256(body), "wrong": WRONG}
    askers: dict[str, Asker] = {}
    for name in [first, *({*pins, "none"} - {first})]:
        pinned = {"digests": {"m.bin": pins[name]}} if name in pins else {}
        askers[name] = Asker(daemon, f"{origin.url}/m.bin", **pinned)
        assert askers[name].boarded.wait(60)
    origin.release()
    ends = {name: asker.result() for name, asker in askers.items()}
    assert {name: end["event"] for name, end in ends.items()} == {
        "right": "ready",
        "none": "ready",
        "wrong": "error",
    }
    assert ends["wrong"]["code"] == "digest_mismatch"
    assert ends["wrong"]["expected"] == WRONG
    assert origin.sent["/m.bin"] == len(body)
    assert stories(daemon) == []


def test_two_wrong_pins_publish_nothing(daemon: Daemon, origin: CountingOrigin) -> None:
    body = origin.bodies["/m.bin"] = os.urandom(9 * MIB)
    origin.hold(after=MIB)
    askers = {}
    for pin in (WRONG, "sha256:" + "1" * 64):
        askers[pin] = Asker(daemon, f"{origin.url}/m.bin", digests={"m.bin": pin})
        assert askers[pin].boarded.wait(60)
    origin.release()
    for pin, asker in askers.items():
        assert asker.result()["expected"] == pin
    assert snapshots(daemon) == []
    assert len(stories(daemon)) == 1
    assert origin.sent["/m.bin"] == len(body)


def test_what_was_only_asked_for_with_a_wrong_pin_is_not_published(
    daemon: Daemon, origin: CountingOrigin
) -> None:
    origin.bodies["/m.bin"] = os.urandom(MIB)
    uri = f"{origin.url}/m.bin"
    assert daemon.ask(uri, wait=False, digests={"m.bin": WRONG}).status == 202
    eventually(lambda: stories(daemon) != [])
    assert snapshots(daemon) == []
    eventually(lambda: "the request pins" in daemon.log())
    assert daemon.ask(uri).status == 200
    assert daemon.ask(uri, wait=False, digests={"m.bin": WRONG}).status == 422


def test_a_pin_newer_than_the_cached_revision_asks_the_source(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    old, new = os.urandom(MIB), os.urandom(MIB)
    with running(tmp_path, FRESHNESS_INTERVAL="3600") as daemon:
        uri = f"{origin.url}/m.bin"
        origin.bodies["/m.bin"] = old
        assert daemon.ask(uri, digests={"m.bin": sha256(old)}).status == 200
        origin.bodies["/m.bin"] = new
        assert daemon.ask(uri, digests={"m.bin": sha256(old)}).json()["result"] == "hit"
        reply = daemon.ask(uri, digests={"m.bin": sha256(new)})
        assert reply.status == 200, reply.body
        assert Path(reply.json()["path"], "m.bin").read_bytes() == new


def test_bytes_that_rotted_on_disk_are_no_wrong_pin(daemon: Daemon, origin: CountingOrigin) -> None:
    body = origin.bodies["/m.bin"] = os.urandom(9 * MIB)
    uri = f"{origin.url}/m.bin"
    file = Path(daemon.ask(uri).json()["path"], "m.bin")
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(5 * MIB)
        opened.write(bytes([body[5 * MIB] ^ 1]))
    reply = daemon.ask(uri, digests={"m.bin": sha256(body)})
    assert reply.json()["code"] == "model_corrupt", reply.body
    # The next ask has the bad block fetched again.
    again = daemon.ask(uri, digests={"m.bin": sha256(body)})
    assert again.status == 200, again.body
    assert Path(again.json()["path"], "m.bin").read_bytes() == body


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"digests": {"m.bin": "sha256:12"}}, "digests"),
        ({"digests": {"m.bin": "blake9:12"}}, "digests"),
        ({"digests": {"m.bin": 5}}, "digests.m.bin"),
        ({"digests": {"m.bin": ""}}, "digests"),
        ({"digests": []}, "digests"),
        ({"model_digest": "md5:" + "0" * 32}, "model_digest"),
    ],
)
def test_pins_that_say_nothing_are_refused(daemon: Daemon, body: Any, field: str) -> None:
    reply = daemon.ask("http://127.0.0.1:1/m.bin", **body)
    assert (reply.status, reply.json()["field"]) == (400, field)


def test_the_command_line_pins(daemon: Daemon, origin: CountingOrigin, tmp_path: Path) -> None:
    body = origin.bodies["/m.bin"] = os.urandom(3 * MIB)
    uri, target = f"{origin.url}/m.bin", tmp_path / "out"
    done = pull(daemon, uri, str(target), "--digest", f"m.bin={WRONG}")
    assert done.returncode == 1
    assert WRONG in done.stderr
    assert sha256(body) in done.stderr
    assert not (target / "m.bin").exists()
    done = pull(daemon, uri, str(target), "--digest", f"m.bin={sha256(body)}")
    assert done.returncode == 0, done.stderr
    assert (target / "m.bin").read_bytes() == body
    model = subprocess.run(
        "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum",
        shell=True, cwd=target, capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    assert pull(daemon, uri, "--model-digest", f"sha256:{model}").returncode == 0
    for option, value in (
        ("--digest", "m.bin"),
        ("--digest", "m.bin=md5:0"),
        ("--model-digest", "0"),
    ):
        assert pull(daemon, uri, option, value).returncode == 2
    twice = ("--digest", f"m.bin={WRONG}", "--digest", f"m.bin={sha256(body)}")
    assert pull(daemon, uri, *twice).returncode == 2
    done = pull(daemon, uri, "--model-digest", WRONG)
    assert done.returncode == 1
    assert f"the model digest is sha256:{model}" in done.stderr
    assert pull(daemon, str(target), str(tmp_path / "b"), "--model-digest", WRONG).returncode == 2


def test_an_archive_is_pinned_by_itself_or_by_what_it_holds(
    daemon: Daemon, origin: CountingOrigin
) -> None:
    inner = {"a.txt": b"a" * 1000, "d/b.bin": os.urandom(MIB)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in inner.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    body = origin.bodies["/m.tar.gz"] = packed.getvalue()
    uri = f"{origin.url}/m.tar.gz"
    refused = daemon.ask(uri, digests={"m.tar.gz": WRONG})
    assert (refused.status, refused.json()["seen"]) == (422, sha256(body))
    assert snapshots(daemon) == []
    for _ in ("fetched", "cached"):
        reply = daemon.ask(
            uri, digests={"m.tar.gz": sha256(body), "d/b.bin": sha256(inner["d/b.bin"])}
        )
        assert reply.status == 200, reply.body
    page = daemon.admin("GET", f"/v1/models/{reply.json()['key']}").json()
    assert f"sha256:{page['metadata']['archive_sha256']}" == sha256(body)
    assert page["verified"] == {"sha256": 1}
    assert daemon.ask(uri, digests={"m.tar.gz": WRONG}).json()["seen"] == sha256(body)
    assert daemon.ask(uri, digests={"a.txt": WRONG}).json()["seen"] == sha256(inner["a.txt"])
    md5 = hashlib.md5(body).hexdigest()
    unknowable = daemon.ask(uri, digests={"m.tar.gz": f"md5:{md5}"})
    assert unknowable.status == 422
    assert "only the sha256" in unknowable.json()["detail"]


def test_the_model_digest_is_what_sha256sum_prints(tmp_path: Path, s3_server: S3Server) -> None:
    files = {"a": b"1", "b/c": b"2", "b.x": b"", "é": b"3", "sp ace": b"4"}
    for name, data in files.items():
        place = tmp_path / "tree" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    printed = subprocess.run(
        "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum",
        shell=True, cwd=tmp_path / "tree", capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    bucket = s3_server.make_bucket({f"m/{name}": data for name, data in files.items()})
    keys = {"access_key_id": s3_server.access_key, "secret_access_key": s3_server.secret_key}
    body = {"options": {"endpoint": s3_server.endpoint}, "credentials": keys}
    with running(tmp_path / "daemon") as daemon:
        uri = f"s3://{bucket}/m"
        refused = daemon.ask(uri, model_digest=WRONG, **body)
        assert refused.json()["seen"] == f"sha256:{printed}"
        assert snapshots(daemon) == []
        (story,) = stories(daemon)
        assert hashlib.sha256((story.parent / "data").read_bytes()).hexdigest() == printed
        missing = daemon.ask(uri, digests={"other": WRONG}, **body)
        assert "no such file" in missing.json()["detail"]
        taken = daemon.ask(uri, model_digest=f"SHA256:{printed.upper()}", **body)
        assert taken.status == 200, taken.body
        page = daemon.admin("GET", f"/v1/models/{taken.json()['key']}").json()
        assert page["model_digest"] == f"sha256:{printed}"
        assert page["verified"]["sha256"] == len(files)
        assert daemon.ask(uri, model_digest=WRONG, **body).status == 422
