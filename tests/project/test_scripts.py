"""The scripts around the project: what they say when something is missing; the demo's models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(SCRIPTS / "demo"))
    import sample

    yield sample
    sys.modules.pop("sample")


def fake_python(path: Path, version_is_fine: bool) -> Path:
    """A program that answers make-venv's questions as an odd Python would."""
    program = path / "python-odd"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "-V) echo Python 3.x ;;\n"
        f"*version_info*) exit {0 if version_is_fine else 1} ;;\n"
        "*) exit 1 ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    return program


def make_venv(python: Path | str, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / "make-venv", python, target], capture_output=True, text=True, timeout=60
    )


def test_make_venv_says_which_python_it_wants(tmp_path: Path) -> None:
    done = make_venv(fake_python(tmp_path, version_is_fine=False), tmp_path / "venv")
    assert done.returncode == 1
    assert "3.11 or newer" in done.stderr
    assert "PYTHON=" in done.stderr


def test_make_venv_says_what_to_install_on_debian(tmp_path: Path) -> None:
    done = make_venv(fake_python(tmp_path, version_is_fine=True), tmp_path / "venv")
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_venv_says_that_there_is_no_such_python(tmp_path: Path) -> None:
    done = make_venv("python-that-is-not-there", tmp_path / "venv")
    assert done.returncode == 1
    assert "there is no python-that-is-not-there" in done.stderr


def test_missing_programs_are_named_with_what_they_prove(tmp_path: Path) -> None:
    present = "curl nginx promtool kubectl mkfs.xfs mkfs.btrfs mkfs.ext4 faketime docker-registry"
    for tool in present.split():
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    script = (SCRIPTS / "install-test-packages").read_text()
    script = script.replace("PATH=$PATH:/usr/sbin:/sbin", "")  # only what this test made
    done = subprocess.run(
        ["/bin/bash", "-c", script, "install-test-packages", "--missing"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    named = [line for line in done.stdout.splitlines() if line.startswith("no ")]
    missing = [line.split(":")[0].removeprefix("no ") for line in named]
    assert missing[:2] == ["strace", "fusermount3"]
    assert "docker-registry" not in missing
    assert "scripts/install-test-packages" in done.stdout


def test_sample_shards_are_valid_safetensors(tmp_path: Path, sample: object) -> None:
    model = sample.make_sample(tmp_path, "m", layers=2, shards=2, seed=1)  # type: ignore[attr-defined]
    index = json.loads((model.tree / "model.safetensors.index.json").read_text())
    found: dict[str, str] = {}
    for path in sorted(model.tree.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        assert length % 8 == 0
        header.pop("__metadata__")
        end = 0
        for name, tensor in header.items():
            start, stop = tensor["data_offsets"]
            rows, columns = tensor["shape"]
            assert (start, stop - start) == (end, 2 * rows * columns)
            end = stop
            found[name] = path.name
        assert path.stat().st_size == 8 + length + end
    assert found == index["weight_map"]
    assert any((model.tree / name).stat().st_size == 0 for name in model.digests)


def test_sample_differences_are_seen(tmp_path: Path, sample: object) -> None:
    differences = sample.differences  # type: ignore[attr-defined]
    sha256 = sample.sha256  # type: ignore[attr-defined]
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    digests = {name: sha256(tmp_path / name) for name in ("a", "b", "c")}
    assert differences(tmp_path, digests) == []
    (tmp_path / "a").write_text("A")
    (tmp_path / "b").unlink()
    (tmp_path / "d").touch()
    assert differences(tmp_path, digests) == ["missing: b", "unexpected: d", "different: a"]
