"""Bytes that change under a published snapshot: found, and fetched again as far as they are bad."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.disk import flip
from tests.harness import Daemon, UnixConnection, call, eventually
from tests.origins.fault import Fault, FaultOrigin, pattern
from tests.process.repairing import (
    BLOCK,
    MODEL,
    SIZE,
    assert_accounts,
    pull,
    ranges,
    verify,
)
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture
def source() -> Iterator[FaultOrigin]:
    with FaultOrigin() as origin:
        origin.put("/m.bin", MODEL, Content_Type="application/octet-stream")
        yield origin


@pytest.fixture
def node(daemons: Callable[..., Daemon]) -> Daemon:
    """No scrub in the background, no limit of reading."""
    return daemons(SCRUB_INTERVAL="0", SCRUB_RATE="0", FRESHNESS_INTERVAL="3600").start()


def test_a_flipped_bit_is_found_and_only_its_block_is_fetched(node: Daemon, source: FaultOrigin):
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    assert verify(node, answer["key"])["ok"]
    flip(path, BLOCK + 12345)
    since = len(source.seen)
    held = path.open("rb")
    found = verify(node, answer["key"], repair=True)
    assert found["ok"]
    assert (found["bad_blocks"], found["repaired_blocks"], found["corrupt"]) == (1, 1, 0)
    [finding] = found["findings"]
    assert finding["state"] == "repaired"
    assert finding["files"] == [
        {
            "path": "m.bin",
            "problem": "blocks",
            "blocks": [1],
            "ranges": [{"offset": BLOCK, "length": BLOCK}],
            "repaired": True,
        }
    ]
    assert ranges(source, since) == [f"bytes={BLOCK}-{2 * BLOCK - 1}"]
    [fetched] = [
        s for s in source.seen[since:] if s.headers.get("range", "bytes=0-0") != "bytes=0-0"
    ]
    assert "if-match" in fetched.headers
    assert path.read_bytes() == MODEL
    assert path.stat().st_mode & 0o777 == 0o444
    with held:
        # Who had it open goes on with the old file, bad as it is.
        assert held.read() != MODEL
    assert node.metric("cachd_bad_blocks_total") == 1
    assert node.metric("cachd_repaired_blocks_total") == 1
    assert node.metric("cachd_scrub_bytes_total") == 2 * SIZE
    assert node.metric("cachd_corrupt_snapshots") == 0
    assert "is damaged: m.bin" in node.log()
    kept = [json.loads(p.read_text()) for p in node.root.glob("quarantine/*/story.json")]
    assert [(k["path"], k["offset"], k["length"], k["reason"]) for k in kept] == [
        ("m.bin", BLOCK, BLOCK, "scrub")
    ]
    assert pull(node, source)["result"] == "hit"
    assert verify(node)["ok"]
    assert_accounts(node)


def test_without_repair_it_is_marked_and_the_next_ask_mends_it(node: Daemon, source: FaultOrigin):
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    flip(path, 5)
    flip(path, 3 * BLOCK + 5)
    found = verify(node, answer["key"])
    assert not found["ok"]
    assert found["findings"][0]["files"][0]["blocks"] == [0, 3]
    assert node.metric("cachd_corrupt_snapshots") == 1
    row = call(node.socket, "GET", "/v1/models").json()["models"][0]
    assert row["corrupt"]
    refused = call(node.socket, "GET", f"/v1/models/{answer['key']}/files/m.bin")
    assert (refused.status, refused.json()["code"]) == (503, "model_corrupt")
    node.terminate()
    node.start()
    assert node.metric("cachd_corrupt_snapshots") == 1
    since = len(source.seen)
    again = pull(node, source)
    assert (again["status"], again["result"], again["path"]) == (200, "miss", answer["path"])
    assert again["fetched_bytes"] == BLOCK + 1000
    assert ranges(source, since) == [f"bytes=0-{BLOCK - 1}", f"bytes={3 * BLOCK}-{SIZE - 1}"]
    assert path.read_bytes() == MODEL
    assert node.metric("cachd_corrupt_snapshots") == 0
    assert pull(node, source)["result"] == "hit"
    assert_accounts(node)


def test_a_write_through_a_users_link_is_undone_in_the_cache_alone(
    node: Daemon, source: FaultOrigin
):
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    mine = node.home / "mine.bin"
    os.link(path, mine)
    flip(mine, 2 * BLOCK)
    theirs = mine.read_bytes()
    assert verify(node, answer["key"], repair=True)["ok"]
    assert path.read_bytes() == MODEL
    assert mine.read_bytes() == theirs
    assert mine.stat().st_ino != path.stat().st_ino
    assert_accounts(node)


@pytest.mark.parametrize("harm", ["truncated", "longer", "missing", "linked away", "directory"])
def test_files_that_are_not_there_as_they_were(node: Daemon, source: FaultOrigin, harm: str):
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    path.chmod(0o644)
    since = len(source.seen)
    if harm == "truncated":
        os.truncate(path, BLOCK + 1)
    elif harm == "longer":
        os.truncate(path, SIZE + 1)
    else:
        path.unlink()
        if harm == "linked away":
            path.symlink_to("/etc/hostname")
        elif harm == "directory":
            path.mkdir()
    stranger = Path(answer["path"], "stranger.py")
    stranger.write_text("import os")
    found = verify(node, answer["key"], repair=True)
    [finding] = found["findings"]
    problem = {"truncated": "size", "longer": "size"}.get(harm, "missing")
    assert finding["files"][0]["problem"] == problem
    assert finding["extra"] == sorted(
        (["m.bin"] if harm == "linked away" else []) + ["stranger.py"]
    ) or finding["extra"] == ["stranger.py"]
    assert path.read_bytes() == MODEL
    assert not path.is_symlink()
    assert not stranger.exists()
    bad = {"truncated": 3, "longer": 0}.get(harm, 4)
    assert len(finding["files"][0]["blocks"]) == bad
    wanted = sum(_length(r) for r in ranges(source, since))
    assert wanted == (0 if harm == "longer" else SIZE if bad == 4 else SIZE - BLOCK)
    assert found["ok"]
    assert verify(node)["ok"]
    assert_accounts(node)


def _length(text: str) -> int:
    first, _, last = text.removeprefix("bytes=").partition("-")
    return int(last) + 1 - int(first)


def test_a_source_that_moved_on_gives_the_new_model_to_who_asks(
    daemons: Callable[..., Daemon], source: FaultOrigin
):
    node = daemons(SCRUB_INTERVAL="0", SCRUB_RATE="0", FRESHNESS_INTERVAL="3600").start()
    answer = pull(node, source, lease={"holder": "pod"})
    path = Path(answer["path"], "m.bin")
    flip(path, 0)
    other = pattern(SIZE, 8)
    source.put("/m.bin", other, Content_Type="application/octet-stream")
    found = verify(node, answer["key"], repair=True)
    assert not found["ok"]
    assert "another revision" in found["findings"][0]["reason"]
    again = pull(node, source)
    assert (again["result"], again["key"]) == ("miss", answer["key"])
    assert again["revision"] != answer["revision"]
    assert Path(again["path"], "m.bin").read_bytes() == other
    # The pod that holds the old one keeps what it has.
    assert path.exists()
    refused = node.admin(
        "GET", f"/v1/models/{answer['key']}/files/m.bin?revision={answer['revision']}"
    )
    assert refused.json()["code"] == "model_corrupt"


def test_known_bad_bytes_are_not_served_while_the_source_is_away(node: Daemon, source: FaultOrigin):
    answer = pull(node, source)
    flip(Path(answer["path"], "m.bin"), 0)
    source.close()
    found = verify(node, answer["key"], repair=True)
    assert not found["ok"]
    assert "origin_" in found["findings"][0]["reason"]
    refused = pull(node, source, timeout=30)
    assert (refused["status"], refused["code"]) == (503, "model_corrupt")
    assert "corrupt" in refused["detail"]
    assert node.metric("cachd_corrupt_snapshots") == 1


def test_what_a_caller_paid_for_waits_for_a_caller(node: Daemon, source: FaultOrigin):
    host = f"{source.host}:{source.port}"
    credentials = {"headers": {host: {"Authorization": "Bearer secret"}}}
    answer = pull(node, source, credentials=credentials)
    assert answer["status"] == 200, answer
    flip(Path(answer["path"], "m.bin"), 0)
    since = len(source.seen)
    found = verify(node, answer["key"], repair=True)
    assert "credentials" in found["findings"][0]["reason"]
    assert source.seen[since:] == []
    again = pull(node, source, credentials=credentials)
    assert (again["result"], again["fetched_bytes"]) == ("miss", BLOCK)
    assert Path(again["path"], "m.bin").read_bytes() == MODEL


def test_wrong_bytes_from_the_source_are_not_taken_for_a_repair(node: Daemon, source: FaultOrigin):
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    flip(path, BLOCK)
    bad = path.read_bytes()
    source.fault("/m.bin", Fault("flip", after=77), times=1, skip=1)
    found = verify(node, answer["key"], repair=True)
    assert not found["ok"]
    assert "digest_mismatch" in found["findings"][0]["reason"]
    assert path.read_bytes() == bad
    assert pull(node, source)["fetched_bytes"] == BLOCK
    assert path.read_bytes() == MODEL
    assert_accounts(node)


def test_s3_by_the_daemons_own_identity_at_an_endpoint_of_the_asks(
    daemons: Callable[..., Daemon], s3_server: S3Server
):
    """Signed requests for just the bad block, to the endpoint that the ref names."""
    node = daemons(SCRUB_INTERVAL="0", SCRUB_RATE="0", FRESHNESS_INTERVAL="3600")
    node.environ |= {
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
    }
    node.start()
    small = b"{}"
    bucket = s3_server.make_bucket({"m/a/w.bin": MODEL, "m/config.json": small})
    body = {"uri": f"s3://{bucket}/m", "options": {"endpoint": s3_server.endpoint}}
    answer = node.admin("POST", "/v1/models", body).json()
    path = Path(answer["path"], "a/w.bin")
    before = node.metric("cachd_fetch_bytes_total", source="s3")
    flip(path, SIZE - 1)
    flip(Path(answer["path"], "config.json"), 0)
    found = verify(node, answer["key"], repair=True)
    assert found["ok"], found
    assert found["repaired_blocks"] == 2
    assert path.read_bytes() == MODEL
    assert Path(answer["path"], "config.json").read_bytes() == small
    assert node.metric("cachd_fetch_bytes_total", source="s3") - before == 1000 + len(small)
    assert_accounts(node)


def test_asks_meanwhile_join_the_repair(node: Daemon, source: FaultOrigin):
    """While the bad block is on its way nobody is given the old bytes; one fetch serves all."""
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    flip(path, 0)
    assert not verify(node, answer["key"])["ok"]
    source.fault("/m.bin", Fault("drip", chunk=1 << 20, seconds=0.1), times=1, skip=1)
    with ThreadPoolExecutor(6) as pool:
        asks = [pool.submit(pull, node, source) for _ in range(5)]
        mended = pool.submit(verify, node, answer["key"], repair=True)
        answers = [ask.result() for ask in asks]
        assert mended.result()["ok"]
    assert {a["status"] for a in answers} == {200}
    assert path.read_bytes() == MODEL
    assert sum(_length(r) for r in ranges(source, 0)) == SIZE + BLOCK


def test_an_archives_member_is_replaced_alone(node: Daemon, source: FaultOrigin, tmp_path: Path):
    place = tmp_path / "m.tar"
    with tarfile.open(place, "w") as tar:
        for name, size in (("w.bin", BLOCK + 7), ("other.bin", 5000)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(pattern(size, 3)))
    source.put("/m.tar", place.read_bytes(), Content_Type="application/x-tar")
    answer = node.ask(source.url("/m.tar")).json()
    path, other = (Path(answer["path"], name) for name in ("w.bin", "other.bin"))
    inode = other.stat().st_ino
    flip(path, 3)
    found = verify(node, answer["key"], repair=True)
    assert found["ok"], found
    assert path.read_bytes() == pattern(BLOCK + 7, 3)
    assert other.stat().st_ino == inode
    assert_accounts(node)


def test_an_import_repairs_as_well(node: Daemon, source: FaultOrigin):
    """Where there is no network: what was exported before has the good bytes."""
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    tar = call(node.socket, "GET", f"/v1/models/{answer['key']}/archive.tar").body
    flip(path, 3 * BLOCK)
    source.close()
    assert not verify(node, answer["key"], repair=True)["ok"]
    connection = UnixConnection(node.admin_socket)
    connection.request("POST", f"/v1/import?uri={source.url('/m.bin')}", tar)
    assert connection.getresponse().status == 200
    connection.close()
    assert path.read_bytes() == MODEL
    assert verify(node, answer["key"])["ok"]
    assert_accounts(node)


def test_an_unreadable_manifest_is_a_finding_among_others(node: Daemon, source: FaultOrigin):
    source.put("/other.bin", b"small", Content_Type="application/octet-stream")
    other = node.ask(source.url("/other.bin")).json()
    first = pull(node, source)
    flip(Path(first["path"], "m.bin"), 0)
    manifest = Path(other["path"]).parent / "manifest.json"
    manifest.chmod(0o644)
    with manifest.open("r+b") as file:
        file.write(b"#")
    found = verify(node)
    assert (found["ok"], found["snapshots"]) == (False, 2)
    reasons = {finding["key"]: finding["reason"] for finding in found["findings"]}
    assert set(reasons) == {first["key"], other["key"]}
    assert "manifest" in reasons[other["key"]]


def test_the_background_finds_and_repairs(daemons: Callable[..., Daemon], source: FaultOrigin):
    node = daemons(SCRUB_INTERVAL="1", SCRUB_RATE="0", FRESHNESS_INTERVAL="3600").start()
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")
    flip(path, BLOCK)
    eventually(lambda: node.metric("cachd_repaired_blocks_total") == 1)
    assert path.read_bytes() == MODEL
    eventually(lambda: node.metric("cachd_scrub_pass_timestamp_seconds") > 1e9)
    node.terminate()
    node.start()
    assert node.metric("cachd_scrub_pass_timestamp_seconds") > 1e9


def test_the_command(node: Daemon, source: FaultOrigin):
    answer = pull(node, source)
    path = Path(answer["path"], "m.bin")

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "cachd", "verify", *arguments],
            env=node.variables() | {"CACHD_ADMIN_SOCKET": str(node.admin_socket)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    assert run("--all")[0] == 0
    assert run()[0] == 2
    flip(path, BLOCK)
    code, text = run(answer["key"])
    assert code == 1
    assert f"m.bin: bad bytes ({BLOCK}+{BLOCK})" in text
    assert "--repair" in text
    code, text = run("--repair", source.url("/m.bin"))
    assert (code, "repaired" in text) == (0, True)
    code, text = run("--all", "--json", "--rate", "100MiB")
    assert json.loads(text)["ok"]
    assert path.read_bytes() == MODEL
    # Pods can't have the disk read.
    assert call(node.socket, "POST", "/v1/verify", {}).status == 403
