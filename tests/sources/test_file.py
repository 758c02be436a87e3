from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from cachd.errors import ContentError, Forbidden, NotFound, UriInvalid
from cachd.sources.file import file_url, path_of_url
from tests.sources.asking import context, paths, request, resolve, settings

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.settings import SourcesSettings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "m/sub").mkdir(parents=True)
    (root / "m/a b%20ü.bin").write_bytes(b"12345")
    (root / "m/sub/empty").write_bytes(b"")
    (root / "m-hf").mkdir()
    (root / "m-hf/x").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


@pytest.fixture
def given(root: Path) -> SourcesSettings:
    return settings(file={"roots": [str(root)]})


async def test_a_directory_and_a_file(root: Path, given: SourcesSettings) -> None:
    plan = await resolve(f"file://{root}/m/", given=given)
    assert paths(plan) == {"a b%20ü.bin": 5, "sub/empty": 0}
    assert path_of_url(plan.files[0].url).read_bytes() == b"12345"
    assert (await resolve(f"file://{root}/m", given=given)).revision == plan.revision
    assert paths(await resolve(f"file://{root}/m-hf/x", given=given)) == {"x": 1}
    assert plan.is_validated
    assert not plan.is_credentialed
    (root / "m/sub/empty").write_bytes(b"!")
    changed = await resolve(f"file://{root}/m", given=given)
    assert changed.revision != plan.revision


async def test_patterns_and_archives(root: Path, given: SourcesSettings) -> None:
    plan = await resolve(f"file://{root}/m", given=given, allow=("*.bin",))
    assert set(paths(plan)) == {"a b%20ü.bin"}
    (root / "z").mkdir()
    (root / "z/model.zip").write_bytes(b"PK")
    assert (await resolve(f"file://{root}/z", given=given)).unpack == "zip"


@pytest.mark.parametrize("path", ["/secret", "/models/../secret", "/models-not/x", "", "/nothing"])
async def test_outside_the_roots(tmp_path: Path, given: SourcesSettings, path: str) -> None:
    source, asked = request(f"file://{tmp_path}{path}", given=given)
    with pytest.raises(Forbidden, match="may not read") as caught:
        await source.resolve(asked, context(given))
    assert "cachd pull" in caught.value.hint
    with pytest.raises(Forbidden):
        await source.probe(asked, "x", context(given))


async def test_off_by_default(root: Path) -> None:
    with pytest.raises(Forbidden):
        await resolve(f"file://{root}/m")


async def test_links(root: Path, tmp_path: Path, given: SourcesSettings) -> None:
    (root / "in").mkdir()
    (root / "in/link").symlink_to("../m/sub/empty")
    (root / "in/dir").symlink_to("../m-hf")
    plan = await resolve(f"file://{root}/in", given=given)
    assert paths(plan) == {"link": 0, "dir/x": 1}
    (root / "in/out").symlink_to(tmp_path / "secret")
    with pytest.raises(Forbidden):
        await resolve(f"file://{root}/in", given=given)
    (root / "in/out").unlink()
    (root / "in/circle").symlink_to(root / "in")
    with pytest.raises(ContentError, match="circle"):
        await resolve(f"file://{root}/in", given=given)
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(Forbidden):
        await resolve(f"file://{root}/out/secret", given=given)


async def test_special_files_and_nothing(root: Path, given: SourcesSettings) -> None:
    (root / "empty").mkdir()
    for path in ("empty", "gone"):
        with pytest.raises(NotFound):
            await resolve(f"file://{root}/{path}", given=given)
    os.mkfifo(root / "empty/fifo")
    with pytest.raises(ContentError, match="neither"):
        await resolve(f"file://{root}/empty", given=given)


@pytest.mark.parametrize("uri", ["file://", "file:///", "file://host/x", "file://relative"])
def test_faults(uri: str, given: Any) -> None:
    with pytest.raises(UriInvalid):
        request(uri, given=given)


def test_canonical(given: SourcesSettings) -> None:
    for uri in ("file:///a/b/", "file://localhost/a/b", "file:///a//b/c/.."):
        assert request(uri, given=given)[1].location.uri == "file:///a/b"


def test_urls_hold_any_path(tmp_path: Path) -> None:
    for name in ("a b", "ü", "100%", "x?y#z", "new\nline", os.fsdecode(b"\xff\xfe")):
        assert path_of_url(file_url(tmp_path / name)) == tmp_path / name
