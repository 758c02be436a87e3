"""What is known of a model as a file beside it: by real pulls from a real daemon."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachd.cli.metadata_file import MetadataFile, wish_of
from tests.disk import tree_of
from tests.harness import Daemon, running
from tests.origins.bucket import Bucket

FILES = {"model.bin": b"weights", "sub/config.json": b"{}"}
POD = "0f8b3c2a-1111-4222-8333-944444444444"


@pytest.fixture(scope="module")
def origin() -> Iterator[Bucket]:
    with Bucket() as one:
        for path, data in FILES.items():
            one.put(f"/models/m/{path}", data)
        yield one


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon")) as one:
        yield one


def cachd(
    daemon: Daemon, origin: Bucket, *arguments: object, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cachd", *map(str, arguments)],
        env={
            "PATH": os.environ["PATH"],
            "CACHD_SOCKET": str(daemon.socket),
            "CACHD_ENDPOINT": origin.base,
            "CACHD_ANONYMOUS": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def pull(daemon: Daemon, origin: Bucket, dest: Path, *more: str, **environ: str) -> str:
    """Its complaint, "" where it went well."""
    done = cachd(daemon, origin, "pull", "s3://models/m", dest, *more, **environ)
    return done.stderr if done.returncode else ""


def told(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    assert isinstance(found, dict)
    return found


def test_it_is_written_where_somebody_asks_for_it(
    tmp_path: Path, daemon: Daemon, origin: Bucket
) -> None:
    pin = f"model.bin=sha256:{hashlib.sha256(FILES['model.bin']).hexdigest()}"
    assert not pull(daemon, origin, tmp_path / "a", "--metadata", "about/m.json", "--digest", pin)
    files = tree_of(tmp_path / "a")
    found = told(files.pop("about/m.json"))
    assert files == FILES
    page = daemon.admin("GET", f"/v1/models/{found['key']}").json()
    for name in ("uri", "key", "revision", "origin", "allow", "ignore", "metadata"):
        assert found[name] == page[name]
    assert found["metadata"]["bucket"] == "models"
    assert {f["path"]: f["size"] for f in found["files"]} == {k: len(v) for k, v in FILES.items()}
    digests = {f["path"]: f["digests"] for f in found["files"]}
    assert digests["model.bin"]["sha256"] == pin.rpartition(":")[2]
    # Never without being asked; and an absolute path lies where it says.
    assert not pull(daemon, origin, tmp_path / "b")
    assert tree_of(tmp_path / "b") == FILES
    away = tmp_path / "elsewhere" / "m.json"
    assert not pull(daemon, origin, tmp_path / "b", "--metadata", str(away))
    assert tree_of(tmp_path / "b") == FILES
    assert told(away.read_bytes()) == found
    assert [path.name for path in away.parent.iterdir()] == ["m.json"]
    # Without a destination, too; and again, over what is there.
    done = cachd(daemon, origin, "pull", "s3://models/m", "--metadata", away)
    assert (done.returncode, told(away.read_bytes())) == (0, found)


def test_an_initializer_has_it_by_its_environment(
    tmp_path: Path, daemon: Daemon, origin: Bucket
) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    pairs = [text for place in places for text in ("s3://models/m", str(place))]
    assert cachd(daemon, origin, *pairs, CACHD_METADATA="true").returncode == 0
    for place in places:
        files = tree_of(place)
        assert told(files.pop("cachd-metadata.json"))["uri"] == "s3://models/m"
        assert files == FILES


@pytest.mark.parametrize(
    "name", ["model.bin", "./sub/../model.bin", "sub", "model.bin/about.json", "sub/config.json"]
)
def test_a_file_of_the_model_is_in_the_way(
    tmp_path: Path, daemon: Daemon, origin: Bucket, name: str
) -> None:
    text = pull(daemon, origin, tmp_path / "a", "--metadata", name)
    assert "where the metadata should be written; nothing was written" in text
    assert "choose another name" in text
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--metadata", "m.json", "--no-wait"), "contradict"),
        (("--metadata", "."), "names the destination itself"),
        (("--metadata", "/proc/nowhere/m.json"), "can't write"),
    ],
)
def test_what_cannot_be(
    tmp_path: Path, daemon: Daemon, origin: Bucket, options: tuple[str, ...], what: str
) -> None:
    dest = () if "--no-wait" in options else (tmp_path / "a",)
    done = cachd(daemon, origin, "pull", "s3://models/m", *dest, *options)
    assert done.returncode != 0
    assert what in done.stderr
    # All or nothing: without its metadata there is no model.
    assert not tree_of(tmp_path)


def test_a_directory_in_its_place_leaves_nothing(
    tmp_path: Path, daemon: Daemon, origin: Bucket
) -> None:
    (tmp_path / "a" / "about").mkdir(parents=True)
    assert "directory" in pull(daemon, origin, tmp_path / "a", "--metadata", "about")
    assert tree_of(tmp_path / "a") == {}


def test_beside_a_view_and_not_in_it(tmp_path: Path, daemon: Daemon, origin: Bucket) -> None:
    view = daemon.root / "views" / POD
    environ = {"POD_UID": POD, "CACHD_VIEW": "always"}
    text = pull(daemon, origin, view, "--metadata", "m.json", **environ)
    assert "a view is read-only" in text
    assert "absolute path outside" in text
    away = tmp_path / "m.json"
    assert not pull(daemon, origin, view, "--metadata", str(away), **environ)
    assert tree_of(view) == FILES
    assert told(away.read_bytes())["key"] == view_key(daemon)


def view_key(daemon: Daemon) -> str:
    return str(daemon.admin("GET", "/v1/views").json()["views"][0]["key"])


def test_it_does_not_go_into_the_cache(tmp_path: Path, daemon: Daemon, origin: Bucket) -> None:
    answer = daemon.ask(
        "s3://models/m", options={"endpoint": origin.base}, credentials={"anonymous": True}
    ).json()
    path = Path(answer["path"])
    assert "cache's own tree" in pull(daemon, origin, path, "--metadata", "m.json")
    assert tree_of(path) == FILES
    assert not pull(daemon, origin, path, "--metadata", str(tmp_path / "m.json"))
    assert told((tmp_path / "m.json").read_bytes())["key"] == answer["key"]


def test_of_a_local_path_it_says_what_can_be_known(
    tmp_path: Path, daemon: Daemon, origin: Bucket
) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "w.bin").write_bytes(b"12345")
    done = cachd(daemon, origin, "pull", source, tmp_path / "a", "--metadata", "m.json")
    assert done.returncode == 0, done.stderr
    found = told((tmp_path / "a" / "m.json").read_bytes())
    assert (found["origin"], found["key"], found["revision"]) == ("file", None, None)
    assert found["files"] == [{"path": "w.bin", "size": 5, "digests": {}}]
    clash = cachd(daemon, origin, "pull", source, tmp_path / "b", "--metadata", "w.bin")
    assert clash.returncode == 2
    assert not (tmp_path / "b").exists()


def test_without_the_daemon_it_is_written_all_the_same(tmp_path: Path, origin: Bucket) -> None:
    nobody = Daemon(tmp_path / "home")
    environ = {"CACHD_FALLBACK": "true", "CACHD_WAIT_DAEMON": "0"}
    assert not pull(nobody, origin, tmp_path / "a", "--metadata", "m.json", **environ)
    files = tree_of(tmp_path / "a")
    assert told(files.pop("m.json"))["uri"] == "s3://models/m"
    assert files == FILES


def test_with_a_layout_it_lies_below_the_destination_itself() -> None:
    """The model's own files lie deeper there."""
    arguments = Namespace(metadata="about.json", no_wait=False)
    found = wish_of(arguments, Path("/cache"), has_layout=True)
    assert found == MetadataFile(outside=Path("/cache/about.json"))
    assert wish_of(Namespace(metadata=None, no_wait=False), None, has_layout=False) is None
