"""``file://`` and bare paths need no daemon."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "src"
    (directory / "sub").mkdir(parents=True)
    (directory / "model.bin").write_bytes(b"weights")
    (directory / "config.json").write_text("{}")
    (directory / ".hidden").write_text("top")
    (directory / "sub" / ".kept").write_text("nested")
    return directory


def names(directory: Path) -> set[str]:
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", ["{}", "file://{}", "cachd+file://{}", "file://localhost{}"])
def test_a_directory_is_copied_without_its_top_dotfiles(
    form: str, source: Path, tmp_path: Path, run: Run
) -> None:
    outcome = run("pull", form.format(source), tmp_path / "dest", "--json")
    assert outcome.code == 0
    assert names(tmp_path / "dest") == {"model.bin", "config.json", "sub/.kept"}
    assert not any(p.is_symlink() for p in (tmp_path / "dest").rglob("*"))
    assert outcome.json["materialised"]["way"] in ("copy", "reflink")


def test_a_file_is_copied(source: Path, tmp_path: Path, run: Run) -> None:
    options = ("--allow", "*.json")  # One exact file bypasses patterns.
    assert run("pull", f"file://{source}/model.bin", tmp_path / "dest", *options).code == 0
    assert names(tmp_path / "dest") == {"model.bin"}


def test_percent_encoding(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x").write_text("x")
    assert run("pull", f"file://{tmp_path}/a%20b", tmp_path / "dest").code == 0
    assert names(tmp_path / "dest") == {"x"}


def test_patterns_apply(source: Path, tmp_path: Path, run: Run) -> None:
    options = ("--allow", "*.bin", "--allow", "*.json", "--ignore", "config*")
    assert run("pull", source, tmp_path / "dest", *options).code == 0
    assert names(tmp_path / "dest") == {"model.bin"}


@pytest.mark.parametrize("uri", ["file:///no/such", "/no/such", "no-such-thing"])
def test_what_is_not_there(uri: str, tmp_path: Path, run: Run) -> None:
    outcome = run("pull", uri, tmp_path / "dest")
    assert outcome.code == 4
    assert "does not exist" in outcome.err
    assert not (tmp_path / "dest").exists()


def test_nothing_that_passes(source: Path, tmp_path: Path, run: Run) -> None:
    outcome = run("pull", source, tmp_path / "dest", "--allow", "*.none")
    assert outcome.code == 4
    assert "No model found" in outcome.err


def test_wrong_uses(source: Path, run: Run) -> None:
    assert run("pull", source).code == 2
    assert run("pull", "file://host/path", "d").code == 2
    assert run("pull", source, source / "inside").code == 2
    assert not (source / "inside").exists()


def test_links_are_followed_and_a_loop_ends(source: Path, tmp_path: Path, run: Run) -> None:
    (source / "link.bin").symlink_to(source / "model.bin")
    assert run("pull", source, tmp_path / "dest").code == 0
    assert (tmp_path / "dest" / "link.bin").read_bytes() == b"weights"
    assert not (tmp_path / "dest" / "link.bin").is_symlink()
    (source / "loop").symlink_to(source)
    outcome = run("pull", source, tmp_path / "other")
    assert outcome.code == 1
    assert "reached twice" in outcome.err


@pytest.mark.parametrize("name", ["model.tar.gz", "model.tar", "model.zip"])
def test_a_single_archive_is_unpacked(name: str, tmp_path: Path, run: Run) -> None:
    source = tmp_path / "src"
    source.mkdir()
    if name.endswith(".zip"):
        with zipfile.ZipFile(source / name, "w") as packed:
            packed.writestr("a/model.pth", b"weights")
    else:
        with tarfile.open(source / name, "w:gz" if name.endswith("gz") else "w") as archive:
            info = tarfile.TarInfo("a/model.pth")
            info.size = 7
            archive.addfile(info, io.BytesIO(b"weights"))
    for number, uri in enumerate((source, source / name)):
        dest = tmp_path / f"dest{number}"
        assert run("pull", uri, dest).code == 0
        assert names(dest) == {"a/model.pth"}
        assert (dest / "a" / "model.pth").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("member", ["../evil", "/evil"])
def test_an_archive_that_would_leave_is_refused(member: str, tmp_path: Path, run: Run) -> None:
    packed = tmp_path / "model.tar"
    with tarfile.open(packed, "w") as archive:
        info = tarfile.TarInfo(member)
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    assert run("pull", packed, tmp_path / "dest").code == 1
    assert not (tmp_path / "dest").exists()
    assert not (tmp_path / "evil").exists()


def test_something_that_is_no_archive(tmp_path: Path, run: Run) -> None:
    (tmp_path / "model.tar.gz").write_bytes(os.urandom(100))
    assert run("pull", tmp_path / "model.tar.gz", tmp_path / "dest").code == 1
    assert not (tmp_path / "dest").exists()
