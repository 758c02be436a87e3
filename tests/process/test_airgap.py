"""Models carried to nodes that can't call out; URIs that must not be called."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.harness import Daemon
from tests.process.origin import CountingOrigin

MIB = 1 << 20


def cachd(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cachd", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=daemon.variables(),
    )


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != ".cachd-manifest.json"
    }


@pytest.mark.parametrize("form", ["tar", "directory"])
def test_a_model_is_carried_to_a_node_without_a_network(
    form: str, daemons, origin: CountingOrigin, tmp_path: Path
):
    connected: Daemon = daemons("connected").start()
    origin.bodies["/m.bin"] = os.urandom(20 * MIB)
    uri = f"{origin.url}/m.bin"
    answer = connected.ask(uri).json()
    carried = tmp_path / ("m.tar" if form == "tar" else "m")
    exported = cachd(connected, "export", answer["key"], str(carried))
    assert exported.returncode == 0, exported.stderr
    connected.close()
    origin.close()

    island: Daemon = daemons("island", OFFLINE="true").start()
    missing = island.ask(uri)
    assert (missing.status, missing.json()["code"]) == (503, "offline")
    imported = cachd(island, "import", str(carried), "--as", uri, "--json")
    assert imported.returncode == 0, imported.stderr
    hit = island.ask(uri).json()
    assert (hit["result"], hit["key"], hit["revision"]) == (
        "hit",
        answer["key"],
        answer["revision"],
    )
    assert tree(Path(hit["path"])) == {"m.bin": origin.bodies["/m.bin"]}
    pulled = cachd(island, "pull", uri, str(tmp_path / "out"))
    assert pulled.returncode == 0, pulled.stderr
    assert tree(tmp_path / "out") == {"m.bin": origin.bodies["/m.bin"]}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.bin"]


def test_a_plain_directory_is_imported(daemons, tmp_path: Path):
    daemon: Daemon = daemons(OFFLINE="true").start()
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "sub" / "w.bin").write_bytes(os.urandom(9 * MIB))
    (model / "empty").touch()
    done = cachd(daemon, "import", str(model), "--as", "s3://models/llama")
    assert done.returncode == 0, done.stderr
    hit = daemon.ask("s3://models/llama").json()
    assert hit["result"] == "hit"
    assert tree(Path(hit["path"])) == tree(model)
    shown = cachd(daemon, "show", "s3://models/llama", "--json")
    assert json.loads(shown.stdout)["key"] == hit["key"]


def post_tar(daemon: Daemon, data: bytes, uri: str = "s3://models/x") -> tuple[int, dict]:
    from tests.harness import UnixConnection

    connection = UnixConnection(daemon.admin_socket)
    connection.request("POST", f"/v1/import?uri={uri}", data, {"Content-Type": "application/x-tar"})
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, body


def make_tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def left_behind(daemon: Daemon) -> list[str]:
    return [
        str(p)
        for folder in ("ingest", "snapshots", "current")
        for p in (daemon.root / folder).rglob("*")
    ]


def test_bad_imports_are_refused_and_leave_nothing(daemons, origin: CountingOrigin, tmp_path: Path):
    daemon: Daemon = daemons(STORE_QUOTA="30MiB").start()
    origin.bodies["/m.bin"] = os.urandom(9 * MIB)
    answer = daemon.ask(f"{origin.url}/m.bin").json()
    carried = tmp_path / "m.tar"
    assert cachd(daemon, "export", answer["key"], str(carried)).returncode == 0
    good = carried.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    assert daemon.admin("DELETE", f"/v1/models/{answer['key']}").status == 200
    cases = {
        "flipped": (bytes(flipped), 422, "digest_mismatch"),
        "cut": (good[: len(good) // 2], 422, "archive_invalid"),
        "no tar": (b"hello" * 5000, 422, "archive_invalid"),
        "empty": (b"", 422, "archive_invalid"),
        "climbing": (make_tar({"../evil": b"x"}), 422, "path_unsafe"),
        "absolute": (make_tar({"/etc/evil": b"x"}), 422, "path_unsafe"),
        "too large": (make_tar({"big": b"x" * 40 * MIB}), 507, "too_large"),
        "manifest that lies": (
            make_tar({".cachd-manifest.json": b'{"format": 1}', "a": b"x"}),
            422,
            "archive_invalid",
        ),
    }
    for name, (data, status, code) in cases.items():
        found = post_tar(daemon, data)
        assert (found[0], found[1]["code"]) == (status, code), (name, found)
        assert found[1]["hint"], name
    assert left_behind(daemon) == []
    assert not Path("/etc/evil").exists()
    assert post_tar(daemon, good)[0] == 200


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/iam",
        "http://[fe80::1]/m.bin",
        "http://2852039166/m.bin",
        "http://0xa9.0xfe.0xa9.0xfe/m.bin",
        "http://[::ffff:169.254.169.254]/m.bin",
        "http://metadata.google.internal/m.bin",
        "s3://bucket/m?endpoint=http://169.254.169.254",
    ],
)
def test_metadata_addresses_are_out_of_reach(uri: str, egress_daemon: Daemon):
    reply = egress_daemon.ask(uri)
    assert reply.status in (400, 403), reply.body
    assert reply.json()["code"] in ("egress_forbidden", "uri_invalid")


@pytest.fixture(scope="module")
def egress_daemon(tmp_path_factory: pytest.TempPathFactory):
    daemon = Daemon(
        tmp_path_factory.mktemp("egress"),
        settings={"SOURCES_EGRESS_DENY": "denied.example,127.0.0.2"},
    )
    yield daemon.start()
    daemon.close()


def test_a_redirect_does_not_lead_there_either(egress_daemon: Daemon, origin: CountingOrigin):
    original = origin._answer
    seen = []

    def redirect(handler, *, with_body):
        seen.append(handler.path)
        handler.send_response(302)
        handler.send_header("Location", "http://169.254.169.254/m.bin")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    origin._answer = redirect  # type: ignore[method-assign]
    reply = egress_daemon.ask(f"{origin.url}/m.bin")
    origin._answer = original  # type: ignore[method-assign]
    assert seen
    assert (reply.status, reply.json()["code"]) == (403, "egress_forbidden")


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("", "uri_invalid"),
        ("nonsense", "uri_invalid"),
        ("nope://x/y", "scheme_unknown"),
        ("s3://", "uri_invalid"),
        ("s3:///key", "uri_invalid"),
        ("http://", "uri_invalid"),
        ("http://host/", "uri_invalid"),
        ("http://user:pw@host/m.bin", "uri_invalid"),
        ("file:///etc/passwd", "forbidden"),
        ("http://denied.example/m.bin", "egress_forbidden"),
        ("http://127.0.0.2/m.bin", "egress_forbidden"),
        ("s3://b/m?endpoint=nonsense", "uri_invalid"),
        ("s3://b/\x00", "uri_invalid"),
    ],
)
def test_bad_uris_get_a_clear_answer_and_leave_nothing(uri: str, code: str, egress_daemon: Daemon):
    reply = egress_daemon.ask(uri)
    problem = reply.json()
    assert (problem["code"], reply.status // 100) == (code, 4), problem
    assert problem["hint"]
    assert "pw@" not in reply.body.decode()
    assert left_behind(egress_daemon) == []
