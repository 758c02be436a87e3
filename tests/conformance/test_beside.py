"""What belongs to the same surface and has no row of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conformance.rows import AS_KSERVE
from tests.conformance.world import World, filled, tree_of
from tests.harness import running

if TYPE_CHECKING:
    from pathlib import Path

W = b"weights" * 1000


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"AWS_ENDPOINT_URL": "$tls_endpoint", "AWS_CA_BUNDLE": "$custom_pem"},
        {"AWS_ENDPOINT_URL": "$tls_endpoint", "S3_VERIFY_SSL": "0"},
        {"STORAGE_ALLOW_PATTERNS": "x, y"},
    ],
    ids=["endpoint", "authority", "unverified", "patterns"],
)
def test_the_key_of_a_uri_is_the_daemons(world: World, more: dict[str, str]) -> None:
    names = world.names("seaweedfs")
    uri = f"s3://{world.put('seaweedfs', {'x': W}, own_bucket=False)}"
    environ = {"CACHD_SOCKET": str(world.daemon.socket), **filled({**AS_KSERVE, **more}, names)}

    def cachd(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "cachd", *arguments],
            capture_output=True, text=True, check=True, timeout=60, cwd=world.folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        ).stdout  # fmt: skip

    pulled = json.loads(cachd("pull", "--json", uri))
    assert cachd("key", uri).strip() == pulled["key"]


def test_ciphertext_is_no_model(world: World, tmp_path: Path) -> None:
    outcome = world.pull("s3://bucket/m", tmp_path / "models", {"CONFIDENTIAL_ENABLED": "true"})
    assert outcome.code == 2
    assert "decrypt" in outcome.stderr
    assert not (tmp_path / "models").exists()


def test_the_daemon_reads_below_its_roots_alone(tmp_path: Path) -> None:
    share, outside = tmp_path / "share", tmp_path / "outside"
    (share / "llama/sub").mkdir(parents=True)
    outside.mkdir()
    files = {"model.bin": W * 3000, "sub/config.json": b"{}", "sub/empty": b""}
    for path, body in files.items():
        (share / "llama" / path).write_bytes(body)
    (outside / "secret").write_bytes(b"s")
    (share / "leads-out").mkdir()
    (share / "leads-out/secret").symlink_to(outside / "secret")
    with running(tmp_path / "home", SOURCES_FILE_ROOTS=str(share), FRESHNESS_INTERVAL="0") as one:
        for uri in (f"file://{outside}", f"file://{share}/../outside", f"file://{share}/leads-out"):
            refused = one.ask(uri)
            assert (refused.status, refused.json()["code"]) == (403, "forbidden"), refused.body

        first = one.ask(f"file://{share}/llama").json()
        assert first["result"] == "miss", first
        assert tree_of(one.root / "snapshots" / first["key"] / first["revision"] / "tree") == files
        assert one.ask(f"file://{share}/llama").json()["result"] == "hit"

        (share / "llama/model.bin").write_bytes(b"new")
        second = one.ask(f"file://{share}/llama").json()
        assert second["revision"] != first["revision"]
        assert tree_of(one.root / "snapshots" / second["key"] / second["revision"] / "tree") == {
            **files,
            "model.bin": b"new",
        }
