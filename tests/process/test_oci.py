"""Models of container registries, from the registry to the pod's directory: layers laid over one
another, artifacts with directories, tokens that end, a daemon that is killed while it unpacks."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.disk import flip, tree_of
from tests.harness import Daemon, call, eventually, pull, running
from tests.origins.fault import FaultOrigin, pattern
from tests.process.repairing import assert_accounts, verify
from tests.servers.certificates import Certificates
from tests.servers.registry import PASSWORD, TITLE, USER, Registry
from tests.servers.token_registry import token_registry
from tests.unpack.archives import COMPRESSIONS, member, tar, tar_of
from tests.unpack.layers import layer, link

pytestmark = pytest.mark.slow

OCTETS = "application/octet-stream"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
UNPACK = {"io.deis.oras.content.unpack": "true"}
FAST: dict[str, Any] = {"SCRUB_INTERVAL": "0", "FETCH_BACKOFF_BASE": "0.01"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all tests that leave it as it is."""
    with running(tmp_path_factory.mktemp("daemon"), **FAST) as one:
        yield one


def uri_of(registry: Any, name: str) -> str:
    return f"oci://{registry.host}/{name}"


def given(daemon: Daemon, uri: str, **body: Any) -> dict[str, Any]:
    reply = daemon.ask(uri, **{"options": {"plain_http": True}, **body})
    answer: dict[str, Any] = reply.json()
    assert reply.status == 200, answer
    return answer


def test_a_private_image_is_pulled_as_kserve_has_it_pulled(
    private_registry: Registry, certificates: Certificates, daemon: Daemon, tmp_path: Path
) -> None:
    base = tar((member("models/a"), b"first"), (member("models/old"), b"o"), link("bin", "usr"))
    middle = layer({"models/a": b"second", "models/.wh.old": b"", "models/w/big": bytes(9 << 20)})
    above = tar(link("models/b", "models/a", tarfile.LNKTYPE), link("models/w/c", "../a"))
    private_registry.push_image(
        "process/car",
        "v1",
        base,
        COMPRESSIONS["gz"](middle),
        COMPRESSIONS["zst"](above),
    )
    config = tmp_path / "config.json"
    login = {"username": USER, "password": PASSWORD}
    config.write_text(json.dumps({"auths": {f"https://{private_registry.host}/v2/": login}}))
    (tmp_path / "cabundle.crt").write_text(certificates.ca_pem)
    done = pull(
        daemon, uri_of(private_registry, "process/car:v1"), tmp_path / "models",
        KSERVE_OCI_DOCKER_CONFIG=str(config),
        CA_BUNDLE_CONFIGMAP_NAME="global-ca-bundle",
        CA_BUNDLE_VOLUME_MOUNT_POINT=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tree_of(tmp_path / "models") == {
        "a": b"second",
        "b": b"second",
        "w/big": bytes(9 << 20),
        "w/c": b"second",
    }
    assert PASSWORD not in daemon.log()
    assert_accounts(daemon)


def test_an_artifact_with_a_directory_shares_its_files(registry: Registry, daemon: Daemon) -> None:
    big, other = pattern(9 << 20, 41), pattern(100_000, 42)
    registry.push_files("process/plain", "v1", {"weights.bin": big})
    packed = gzip.compress(tar_of({"tokenizer/vocab": b"v", "tokenizer/deep/x": other}))
    registry.push(
        "process/mixed",
        "v1",
        [
            (big, OCTETS, {TITLE: "deep/model.bin"}),
            (packed, GZIP, {TITLE: "tokenizer", **UNPACK}),
        ],
    )
    first = given(daemon, uri_of(registry, "process/plain:v1"))
    second = given(daemon, uri_of(registry, "process/mixed:v1"))
    assert tree_of(Path(second["path"])) == {
        "deep/model.bin": big,
        "tokenizer/vocab": b"v",
        "tokenizer/deep/x": other,
    }
    assert second["fetched_bytes"] == len(packed)
    inodes = {
        Path(first["path"], "weights.bin").stat().st_ino,
        Path(second["path"], "deep/model.bin").stat().st_ino,
    }
    assert len(inodes) == 1
    assert_accounts(daemon)
    # The other way round: a file of the mixed one is there for a third.
    registry.push_files("process/third", "v1", {"again.bin": big})
    daemon.admin("DELETE", f"/v1/models/{first['key']}")
    third = given(daemon, uri_of(registry, "process/third:v1"))
    assert third["fetched_bytes"] == 0


def test_a_modelpack(registry: Registry, daemon: Daemon) -> None:
    kind, path = "application/vnd.cncf.model.", "org.cncf.model.filepath"
    registry.push(
        "process/pack",
        "v1",
        [
            (b"{}", kind + "weight.config.v1.raw", {path: "config.json"}),
            (tar_of({"w/a.bin": b"a"}), kind + "weight.v1.tar", {path: "w"}),
            (gzip.compress(tar_of({"doc/README": b"r"})), kind + "doc.v1.tar+gzip", {path: "doc"}),
        ],
        config_type=kind + "config.v1+json",
        artifactType=kind + "manifest.v1+json",
    )
    answer = given(daemon, uri_of(registry, "process/pack:v1"))
    assert tree_of(Path(answer["path"])) == {
        "config.json": b"{}",
        "w/a.bin": b"a",
        "doc/README": b"r",
    }


def test_tokens_that_end_in_mid_fetch_and_storage_elsewhere(daemon: Daemon) -> None:
    """Each token is good for four blobs of six; the storage behind sees none of them."""
    login = ("somebody", "open-sesame-of-tokens")
    files = {f"w{n}.bin": pattern(10_000, n) for n in range(6)}
    with FaultOrigin() as storage, token_registry(login=login, uses=4) as registry:
        registry.storage = storage.url("/store/")
        registry.put_files("a/b", "v1", files)
        for digest, body in registry.blobs.items():
            storage.put(f"/store/{digest.partition(':')[2]}", body)
        answer = given(
            daemon,
            uri_of(registry, "a/b:v1"),
            credentials={"username": login[0], "password": login[1]},
        )
        assert tree_of(Path(answer["path"])) == files
        assert "sesame" not in daemon.log()
        # Of the resolver one for the plan, and one that was asked for when it had ended.
        assert len(registry.tokens()) == 2
        assert len(storage.seen) >= len(files)
        assert not [seen for seen in storage.seen if "authorization" in seen.headers]


def test_a_daemon_that_is_killed_while_it_lays_layers_out(
    registry: Registry, daemons: Callable[..., Daemon]
) -> None:
    """kill -9 with half a tree on disk: the layers are still there, and the tree is made anew."""
    files = {f"models/d{n % 50}/f{n}": b"%d" % n for n in range(8000)}
    changed = {f"models/d{n}/f{n}": b"changed" for n in range(50)}
    registry.push_image("process/many", "v1", layer(files), layer(changed))
    daemon = daemons(**FAST).start()
    uri = uri_of(registry, "process/many:v1")

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            daemon.ask(uri, options={"plain_http": True})

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: list(daemon.root.glob("ingest/*/tree/d0/f50")))
    daemon.kill()
    asking.join(60)
    assert not list(daemon.root.glob("snapshots/*/*"))
    (half,) = daemon.root.glob("ingest/*/tree")
    assert 0 < len(tree_of(half)) < len(files)
    daemon.start()
    answer = given(daemon, uri)
    assert answer["fetched_bytes"] == 0
    wanted = {name.removeprefix("models/"): body for name, body in {**files, **changed}.items()}
    assert tree_of(Path(answer["path"])) == wanted
    assert_accounts(daemon)


def test_a_bad_block_of_an_image_is_repaired(
    registry: Registry, daemons: Callable[..., Daemon]
) -> None:
    """The layers are fetched again, for they aren't kept; only the bad file is replaced."""
    body = pattern(9 << 20, 43)
    registry.push_image("process/rot", "v1", layer({"models/w.bin": body, "models/x": b"x"}))
    node = daemons(SCRUB_INTERVAL="0", SCRUB_RATE="0", FRESHNESS_INTERVAL="3600").start()
    answer = given(node, uri_of(registry, "process/rot:v1"))
    tree = Path(answer["path"])
    good = (tree / "x").stat().st_ino
    flip(tree / "w.bin", 8 << 20)
    assert not verify(node, answer["key"])["ok"]
    again = given(node, uri_of(registry, "process/rot:v1"))
    assert again["path"] == answer["path"]
    assert tree_of(tree) == {"w.bin": body, "x": b"x"}
    assert (tree / "x").stat().st_ino == good
    assert verify(node, answer["key"])["ok"]
    assert_accounts(node)


@pytest.mark.parametrize("digest", ["good", "bad"])
def test_pins_are_of_the_models_own_files(registry: Registry, daemon: Daemon, digest: str) -> None:
    registry.push_image("process/pins", "v1", layer({"models/x": b"x"}))
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    pinned = sha256 if digest == "good" else "0" * 64
    body = {"options": {"plain_http": True}, "digests": {"x": f"sha256:{pinned}"}}
    reply = call(
        daemon.socket,
        "POST",
        "/v1/models",
        {"uri": uri_of(registry, "process/pins:v1"), **body},
    )
    assert reply.status == (200 if digest == "good" else 422), reply.body
    if digest == "bad":
        assert reply.json()["code"] == "digest_mismatch"


def test_an_image_without_models_says_so(registry: Registry, daemon: Daemon) -> None:
    registry.push_image("process/bare", "v1", layer({"etc/x": b"", "weights/w": b""}))
    reply = daemon.ask(uri_of(registry, "process/bare:v1"), options={"plain_http": True}).json()
    assert reply["code"] == "not_found"
    assert "at the top there is 'etc', 'weights'" in reply["detail"]


def test_a_registry_that_is_gone_has_a_mirror(registry: Registry, tmp_path: Path) -> None:
    registry.push_files("process/mirrored", "v1", {"x": b"x"})
    rule = {"match": "oci://127.0.0.1:1/*", "endpoints": [registry.url]}
    with running(tmp_path, **FAST, SOURCES_MIRRORS=json.dumps([rule])) as node:
        answer = node.ask("oci://127.0.0.1:1/process/mirrored:v1").json()
        assert answer.get("mirror") == registry.url, answer
        assert tree_of(Path(answer["path"])) == {"x": b"x"}
        assert answer["origin"] == "oci+https://127.0.0.1:1"
