"""The client's memory: under 64 MiB whatever the model's size, by every way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.fake_daemon import FakeDaemon
from tests.cli.fake_files import FakeFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 64 * 2**20
URI = "s3://bucket/model"

# VmHWM is this program's own; ru_maxrss also counts what the process was before it.
CODE = """
import sys
from pathlib import Path
from cachd.cli.main import main
code = main(sys.argv[1:])
status = Path("/proc/self/status").read_text()
print(code, status.partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDaemon]:
    """A model of many files and a big one that takes no space here."""
    home = tmp_path_factory.mktemp("large")
    fake = FakeDaemon(home / "root", home / "cachd.sock")
    fake.start()
    names = [f"shard-{n % 50:03}/{'x' * 40}-{n:06}.bin" for n in range(10_000)]
    model = fake.add(URI, dict.fromkeys(names, b"x"))
    fake.grow(model, "big.bin", 512 * 2**20)
    yield fake
    fake.stop()


def peak(*arguments: object, **environ: str) -> int:
    """Bytes."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environ},
    )  # fmt: skip
    code, size = done.stderr.splitlines()[-1].split()
    assert code == "0", done.stderr
    return int(size) * 1024


def test_a_copy(large: FakeDaemon, tmp_path: Path) -> None:
    assert peak(URI, tmp_path / "d", CACHD_SOCKET=str(large.socket)) < LIMIT
    assert sum(1 for path in (tmp_path / "d").rglob("*.bin")) == 10_001


def test_descriptors(large: FakeDaemon, tmp_path: Path) -> None:
    (model,) = large.models.values()
    large.script.hide_path = True
    files = FakeFiles(large.socket.with_name("files.sock"), model.tree)
    try:
        assert peak(URI, tmp_path / "d", CACHD_SOCKET=str(large.socket)) < LIMIT
    finally:
        files.stop()
        large.script.hide_path = False
    assert len(files.requests) > 10_000


def test_a_stream(tmp_path: Path) -> None:
    fake = FakeDaemon(tmp_path / "root", tmp_path / "cachd.sock")
    fake.start()
    try:
        model = fake.add(URI, {f"{n:04}": b"x" for n in range(500)})
        fake.grow(model, "big.bin", 512 * 2**20)
        fake.script.hide_path = True
        assert peak(URI, tmp_path / "d", CACHD_SOCKET=str(fake.socket)) < LIMIT
    finally:
        fake.stop()
    assert (tmp_path / "d/big.bin").stat().st_size == 512 * 2**20


def test_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for n in range(5000):
        (tmp_path / f"src/{n:05}").write_bytes(b"x")
    with (tmp_path / "src/big.bin").open("wb") as file:
        file.truncate(512 * 2**20)
    assert peak(tmp_path / "src", tmp_path / "d") < LIMIT
