"""``cachd import`` and ``export``."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from backports import zstd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.cli.fake_daemon import FakeDaemon

URI = "s3://bucket/model"
LONG = "deep/" * 30 + "ünïcode name.bin"
FILES = {"config.json": b"{}", LONG: b"w" * 700, "big.bin": os.urandom(9_000_000), "empty": b""}


def write(directory: Path) -> Path:
    for name, data in FILES.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return directory


def test_a_directory_is_imported_deterministically(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    source = write(tmp_path / "src")
    outcome = run("import", source, "--as", URI, "--socket", daemon.socket, "--json")
    assert outcome.code == 0
    assert outcome.json["files"] == 4
    first = daemon.script.imported
    os.utime(source / "config.json", (1, 1))
    (source / "config.json").chmod(0o600)
    assert run("import", source, "--as", URI, "--socket", daemon.socket).code == 0
    assert daemon.script.imported == first
    model = next(iter(daemon.models.values()))
    assert {p: (model.tree / p).read_bytes() for p in FILES} == FILES


@pytest.mark.parametrize("kind", ["plain", "gzip", "bz2", "xz", "zstd"])
def test_an_archive_is_passed_through_decompressed(
    kind: str, daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    import bz2
    import lzma

    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.add(write(tmp_path / "src") / "config.json", "config.json")
    plain = memory.getvalue()
    packed = {
        "plain": plain,
        "gzip": gzip.compress(plain),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "zstd": zstd.compress(plain),
    }[kind]
    (tmp_path / "model.tar.any").write_bytes(packed)
    outcome = run("import", tmp_path / "model.tar.any", "--as", URI, "--socket", daemon.socket)
    assert outcome.code == 0, outcome.err
    assert daemon.script.imported == plain


def test_export_and_import_again(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    model = daemon.add(URI, FILES)
    target = tmp_path / "out"
    outcome = run("export", URI, target, "--socket", daemon.socket, "--json")
    assert outcome.json["verified"] is True
    assert {p: (target / p).read_bytes() for p in FILES} == FILES
    manifest = json.loads((target / ".cachd-manifest.json").read_text())
    assert manifest["revision"] == model.revision
    assert run("import", target, "--as", URI, "--socket", daemon.socket).code == 0
    with tarfile.open(fileobj=io.BytesIO(daemon.script.imported)) as archive:
        assert archive.getnames()[0] == ".cachd-manifest.json"
    assert run("export", URI, target, "--socket", daemon.socket).code == 2


def test_export_to_a_tar(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    daemon.add(URI, FILES)
    assert run("export", URI, tmp_path / "m.tar", "--socket", daemon.socket).code == 0
    with tarfile.open(tmp_path / "m.tar") as archive:
        assert archive.getnames() == [".cachd-manifest.json", *sorted(FILES)]
    assert run("import", tmp_path / "m.tar", "--as", URI, "--socket", daemon.socket).code == 0
    assert run("export", URI, tmp_path / "m.tar.gz", "--socket", daemon.socket).code == 2
    assert sorted(p.name for p in tmp_path.glob("*m.tar*")) == ["m.tar"]


def test_a_bad_block_is_found_and_nothing_stays(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.add(URI, FILES)
    daemon.script.corrupt = "config.json"
    outcome = run("export", URI, tmp_path / "out", "--socket", daemon.socket)
    assert outcome.code == 1
    assert "config.json differs from the manifest in block 0" in outcome.err
    assert not (tmp_path / "out").exists()


def test_what_can_not_be_imported(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    def attempt(source: Path) -> int:
        return run("import", source, "--as", URI, "--socket", daemon.socket).code

    assert attempt(tmp_path / "none") == 4
    (tmp_path / "empty").mkdir()
    assert attempt(tmp_path / "empty") == 4
    source = write(tmp_path / "src")
    (source / "link").symlink_to(tmp_path / "empty")
    assert attempt(source) == 2
    (source / "link").unlink()
    os.mkfifo(source / "pipe")
    assert attempt(source) == 2
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(gzip.compress(os.urandom(100_000))[:50_000])
    assert attempt(cut) == 2
