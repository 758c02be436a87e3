"""C01–C06 and C52 as KServe itself starts us: ``cachd URI DEST [URI DEST…]``, options by
environment alone, exit code 0 or 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.rows import AS_KSERVE
from tests.conformance.web import Page
from tests.conformance.world import filled, tree_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.world import World

WEIGHTS = b"weights" * 1000
FILES = {"config.json": b"{}", "m.safetensors": WEIGHTS, "m.bin": b"b", "sub/n.bin": b"n"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_c01_odd_arguments(count: int, world: World, tmp_path: Path) -> None:
    arguments = ["s3://bucket/m", str(tmp_path / "a"), "s3://bucket/n"][:count]
    outcome = world.run(arguments, tmp_path, {})
    assert outcome.code == 1
    assert "usage" in outcome.stdout
    assert outcome.tree == {}


def test_c02_c04_pairs_in_order_into_new_nested_places(world: World, tmp_path: Path) -> None:
    world.web.pages["/c02/a.bin"] = Page(body=b"first")
    world.web.pages["/c02/b.bin"] = Page(body=b"second")
    before = len(world.web.seen)
    arguments = [
        *(f"{world.web.url}/c02/a.bin", str(tmp_path / "mnt/models/base")),
        *(f"{world.web.url}/c02/b.bin", str(tmp_path / "mnt/models/adapters/one")),
    ]
    outcome = world.run(arguments, tmp_path, {})
    assert outcome.code == 0, outcome.stderr
    assert outcome.tree == {
        "mnt/models/base/a.bin": b"first",
        "mnt/models/adapters/one/b.bin": b"second",
    }
    targets = [seen.target for seen in world.web.seen[before:]]
    assert targets.index("/c02/a.bin") < targets.index("/c02/b.bin")
    assert max(i for i, t in enumerate(targets) if t == "/c02/a.bin") < targets.index("/c02/b.bin")


def test_c02_two_models_into_one_place(world: World, tmp_path: Path) -> None:
    world.web.pages["/c02/c.bin"] = Page(body=b"c")
    world.web.pages["/c02/d.bin"] = Page(body=b"d")
    dest = str(tmp_path / "models")
    uris = [f"{world.web.url}/c02/{name}.bin" for name in "cd"]
    outcome = world.run([uris[0], dest, uris[1], dest], tmp_path, {})
    assert outcome.code == 0, outcome.stderr
    assert outcome.tree == {"models/c.bin": b"c", "models/d.bin": b"d"}


def test_c03_the_second_fails(world: World, tmp_path: Path) -> None:
    world.web.pages["/c03/a.bin"] = Page(body=b"first")
    message = tmp_path / "termination-log"
    message.touch()
    arguments = [
        *(f"{world.web.url}/c03/a.bin", str(tmp_path / "a")),
        *(f"{world.web.url}/c03/none.bin", str(tmp_path / "b")),
    ]
    outcome = world.run(arguments, tmp_path, {"CACHD_TERMINATION_LOG": str(message)})
    assert outcome.code == 1
    assert outcome.tree.pop("termination-log") == message.read_bytes()
    assert outcome.tree == {"a/a.bin": b"first"}
    told = message.read_text()
    assert f"{world.web.url}/c03/none.bin" in told
    assert "code: not_found" in told
    assert "next: " in told
    for line in told.splitlines()[:2]:
        assert line.removeprefix("next: ") in outcome.stderr
    assert "not found" in outcome.stderr.lower()


@pytest.mark.parametrize("make", ["file://{}", "{}"])
def test_c05_c06_local_paths(make: str, world: World, tmp_path: Path) -> None:
    for path, body in FILES.items():
        (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / path).write_bytes(body)
    outcome = world.run(
        [make.format(tmp_path / "src"), str(tmp_path / "out/models")], tmp_path / "out", {}
    )
    assert outcome.code == 0, outcome.stderr
    assert outcome.tree == {f"models/{path}": body for path, body in FILES.items()}
    outcome = world.run([make.format("/no/such"), str(tmp_path / "none")], tmp_path / "none", {})
    assert outcome.code == 1
    assert "does not exist" in outcome.stderr
    assert not (tmp_path / "none").exists()


PATTERNS = [
    ({"STORAGE_ALLOW_PATTERNS": '["*.safetensors", "*.json"]'}, {"config.json", "m.safetensors"}),
    ({"STORAGE_ALLOW_PATTERNS": '"*.json"'}, {"config.json"}),
    ({"STORAGE_ALLOW_PATTERNS": "*.safetensors, *.json"}, {"config.json", "m.safetensors"}),
    ({"STORAGE_ALLOW_PATTERNS": ""}, set(FILES)),
    ({"STORAGE_ALLOW_PATTERNS": "[]", "STORAGE_IGNORE_PATTERNS": " "}, set(FILES)),
    ({"STORAGE_IGNORE_PATTERNS": '["*.bin"]'}, {"config.json", "m.safetensors"}),
    ({"STORAGE_ALLOW_PATTERNS": "*.bin", "STORAGE_IGNORE_PATTERNS": "sub/*"}, {"m.bin"}),
    # What a service's annotation says comes before what the container was given.
    ({"STORAGE_ALLOW_PATTERNS": "*.bin", "CACHD_ALLOW": '["*.json"]'}, {"config.json"}),
    ({"STORAGE_ALLOW_PATTERNS": "*.json", "CACHD_ALLOW": ""}, {"config.json"}),
]


@pytest.fixture(scope="module")
def prefix(world: World) -> str:
    return world.put("seaweedfs", FILES, own_bucket=False)


@pytest.mark.parametrize(("variables", "expected"), PATTERNS)
def test_c52_patterns(
    variables: dict[str, str], expected: set[str], prefix: str, world: World, tmp_path: Path
) -> None:
    environ = {**filled(AS_KSERVE, world.names("seaweedfs")), **variables}
    outcome = world.run([f"s3://{prefix}", str(tmp_path / "models")], tmp_path / "models", environ)
    assert outcome.code == 0, outcome.stderr
    assert outcome.tree == {path: FILES[path] for path in expected}


def test_c52_patterns_that_cannot_be_read(world: World, tmp_path: Path) -> None:
    for name in ("STORAGE_ALLOW_PATTERNS", "CACHD_IGNORE"):
        outcome = world.run(
            ["s3://bucket/m", str(tmp_path / "models")], tmp_path / "models", {name: "[1]"}
        )
        assert outcome.code == 1
        assert name in outcome.stderr
    assert tree_of(tmp_path) == {}
