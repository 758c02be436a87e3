"""Models of HDFS, end to end: ranges from datanodes, changes that no answer tells of, passes and
failovers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import pull, running
from tests.origins.fault import pattern
from tests.servers.certificates import Certificates
from tests.servers.webhdfs import Hdfs, HdfsServer

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
WEIGHTS = pattern(20 * MIB + 5)
PARTS = {"FETCH_PART_SIZE": "8MiB"}


@pytest.fixture
def server() -> Iterator[HdfsServer]:
    with HdfsServer(filled()) as one:
        yield one


def filled() -> Hdfs:
    hdfs = Hdfs()
    hdfs.put("/models/m/weights.bin", WEIGHTS)
    hdfs.put("/models/m/conf/ü config.json", b"{}")
    hdfs.put("/models/m/empty", b"")
    return hdfs


def secret(folder: Path, **keys: str) -> dict[str, str]:
    folder.mkdir()
    for name, value in keys.items():
        (folder / name).write_text(value)
    return {"HDFS_SECRET_DIR": str(folder)}


def check(target: Path) -> None:
    assert (target / "weights.bin").read_bytes() == WEIGHTS
    assert (target / "conf/ü config.json").read_bytes() == b"{}"
    assert (target / "empty").read_bytes() == b""


@pytest.mark.parametrize("is_gateway", [False, True])
def test_a_pull_as_kserve_sets_it_up(tmp_path: Path, server: HdfsServer, is_gateway: bool) -> None:
    hdfs = server.hdfs
    hdfs.is_gateway = is_gateway
    hdfs.combine = "COMPOSITE_CRC"
    hdfs.wants = ("Authorization", "Basic abc")
    environ = secret(
        tmp_path / "secret",
        HDFS_NAMENODE=server.url,
        HDFS_ROOTPATH="/models",
        HEADERS='{"Authorization": "Basic abc"}',
        USER_PROXY="alice",
    )
    with running(tmp_path, **PARTS) as daemon:
        done = pull(daemon, "hdfs://m", tmp_path / "out", **environ)
        assert done.returncode == 0, done.stderr
        check(tmp_path / "out")
        assert "Basic abc" not in daemon.log()
    reads = [one for one in hdfs.seen if one.op == "OPEN" and "weights" in one.path]
    served = [one for one in reads if one.server == ("namenode" if is_gateway else "datanode")]
    ranges = {(one.query["offset"], one.query["length"]) for one in served}
    assert len(ranges) >= 3
    assert len(reads) == len(served) * (1 if is_gateway else 2)
    assert {one.query["doas"] for one in reads} == {"alice"}
    if not is_gateway:
        assert all("authorization" not in one.headers for one in served)


def test_a_change_in_mid_fetch_is_noticed_and_fetched_anew(
    tmp_path: Path, server: HdfsServer
) -> None:
    hdfs, changed = server.hdfs, threading.Event()
    other = pattern(20 * MIB + 5, seed=7)

    def change(path: str) -> None:
        # Same length: no answer shows it.
        if "weights" in path and not changed.is_set():
            changed.set()
            hdfs.put(path, other)

    hdfs.on_read = change
    with running(tmp_path, **PARTS) as daemon:
        answer = daemon.ask(f"webhdfs://{server.host}/models/m").json()
        assert changed.is_set()
        assert (Path(answer["path"]) / "weights.bin").read_bytes() == other
        assert daemon.admin("GET", f"/v1/models/{answer['key']}").json()["revisions"] == [
            answer["revision"]
        ]


def test_a_source_that_never_rests_is_given_up(tmp_path: Path, server: HdfsServer) -> None:
    hdfs = server.hdfs
    hdfs.on_read = lambda path: hdfs.put(path, hdfs.files[path].data)
    with running(tmp_path) as daemon:
        reply = daemon.ask(f"webhdfs://{server.host}/models/m")
        assert reply.json()["code"] == "origin_changed"
        assert daemon.admin("GET", "/v1/models").json()["models"] == []


def test_a_pass_is_looked_at_again(tmp_path: Path, server: HdfsServer) -> None:
    server.hdfs.tokens["sesame"] = "alice"
    uri = f"webhdfs://{server.host}/models/m"
    with running(tmp_path) as daemon:
        assert daemon.ask(uri).json()["code"] == "credentials_missing"
        assert daemon.ask(uri, credentials={"token": "sesame"}).json()["result"] == "miss"
        assert daemon.ask(uri, credentials={"token": "sesame"}).json()["result"] == "hit"
        assert daemon.ask(uri).status == 401
        wrong: dict[str, Any] = daemon.ask(uri, credentials={"token": "wrong"}).json()
        assert wrong["code"] == "credentials_invalid"
        assert "sesame" not in daemon.log()


def test_a_failover_in_mid_fetch(tmp_path: Path) -> None:
    with HdfsServer(filled(), namenodes=2) as server:
        hdfs = server.hdfs
        hdfs.state = {1: "StandbyException"}

        def fail_over(path: str) -> None:
            hdfs.state = {0: "StandbyException"}

        hdfs.on_read = fail_over
        with running(tmp_path, **PARTS) as daemon:
            environ = secret(tmp_path / "secret", HDFS_NAMENODE=";".join(server.urls))
            done = pull(daemon, "hdfs://models/m", tmp_path / "out", **environ)
            assert done.returncode == 0, done.stderr
            check(tmp_path / "out")


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path, certificates: Certificates) -> None:
    import ssl

    context = certificates.server_context()
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with HdfsServer(filled(), tls=context) as server, running(tmp_path) as daemon:
        keys = {"HDFS_NAMENODE": server.url, "TLS_CA": certificates.ca_pem}
        environ = secret(tmp_path / "without", **keys)
        assert pull(daemon, "hdfs://models/m", tmp_path / "no", **environ).returncode != 0
        shown = {
            "TLS_CERT": certificates.chain.read_text(),
            "TLS_KEY": certificates.key.read_text(),
        }
        environ = secret(tmp_path / "with", **keys, **shown)
        done = pull(daemon, "hdfs://models/m", tmp_path / "out", **environ)
        assert done.returncode == 0, done.stderr
        check(tmp_path / "out")
