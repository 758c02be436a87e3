"""The client's memory: under 64 MiB whatever the model's size, by every way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.cli.fake_daemon import FakeDaemon
from tests.cli.fake_files import FakeFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

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
    names = [f"shard-{n % 50:03}/{'x' * 40}-{n:06}.bin" for n in range(6_000)]
    model = fake.add(URI, dict.fromkeys(names, b"x"))
    fake.grow(model, "big.bin", 128 * 2**20)
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
    assert sum(1 for path in (tmp_path / "d").rglob("*.bin")) == 6_001


def test_descriptors(large: FakeDaemon, tmp_path: Path) -> None:
    (model,) = large.models.values()
    large.script.hide_path = True
    files = FakeFiles(large.socket.with_name("files.sock"), model.tree)
    try:
        assert peak(URI, tmp_path / "d", CACHD_SOCKET=str(large.socket)) < LIMIT
    finally:
        files.stop()
        large.script.hide_path = False
    assert len(files.requests) > 6_000


def test_a_stream(tmp_path: Path) -> None:
    fake = FakeDaemon(tmp_path / "root", tmp_path / "cachd.sock")
    fake.start()
    try:
        model = fake.add(URI, {f"{n:04}": b"x" for n in range(500)})
        fake.grow(model, "big.bin", 128 * 2**20)
        fake.script.hide_path = True
        assert peak(URI, tmp_path / "d", CACHD_SOCKET=str(fake.socket)) < LIMIT
    finally:
        fake.stop()
    assert (tmp_path / "d/big.bin").stat().st_size == 128 * 2**20


def test_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for n in range(5000):
        (tmp_path / f"src/{n:05}").write_bytes(b"x")
    with (tmp_path / "src/big.bin").open("wb") as file:
        file.truncate(128 * 2**20)
    assert peak(tmp_path / "src", tmp_path / "d") < LIMIT


def test_what_loads_the_checksums_library(tmp_path: Path) -> None:
    """An archive that is unpacked here, and blocks that are checked."""
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        info = tarfile.TarInfo("big.bin")
        info.size = 64 * 2**20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    assert peak(tmp_path / "m.tar", tmp_path / "d") < LIMIT
    fake = FakeDaemon(tmp_path / "root", tmp_path / "cachd.sock")
    fake.start()
    try:
        fake.add(URI, {"big.bin": bytes(64 * 2**20)})
        known = {"CACHD_SOCKET": str(fake.socket), "CACHD_VERIFY": "true"}
        assert peak(URI, tmp_path / "e", **known) < LIMIT
    finally:
        fake.stop()


PAGE = """
import itertools, json, sys
from pathlib import Path
from cachd.cli import main, pull
from cachd.cli.manifest import WantedFile, read_page
def pieces():
    yield b'{"revision": "r", "manifest_files": ['
    for n in range(100_000):
        file = {"path": f"shard-{n % 50:03}/{'x' * 40}-{n:06}.bin", "size": n + 300, "digests": {}}
        yield (b", " if n else b"") + json.dumps(file).encode()
    yield b'], "block_size": 8}'
text = pieces()
kept = []
page = read_page(
    lambda count: b"".join(itertools.islice(text, 500)),
    lambda file: kept.append(WantedFile(path=file["path"], size=file["size"])),
)
assert (len(kept), page["block_size"], kept[-1].size) == (100_000, 8, 100_299)
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])
"""


def test_a_hundred_thousand_files_are_listed_in_four_fifths_of_it() -> None:
    """What is left is for what is done with them."""
    done = subprocess.run(
        [sys.executable, "-c", PAGE], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) * 1024 < LIMIT * 0.8
