"""Rules of the tree that no linter knows."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import cachd

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
MODULE_LIMIT = 400
NO_PROJECT_FILES = {".git", "__pycache__", "node_modules", "build", "dist"}


def project_files() -> list[Path]:
    """Every text file that is, or would be, in the repository."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        paths = [
            path
            for path in ROOT.rglob("*")
            if not NO_PROJECT_FILES & set(path.parts) and not path.match(".venv*/**")
        ]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def registry_hosts() -> set[str]:
    """Hosts of package registries, learned from this machine so that no file must name them."""
    pip = pytest.importorskip("pip._internal.models.index").PyPI
    texts = [pip.url, f"https://{pip.file_storage_domain}"]
    configured = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts += [path.read_text(errors="replace") for path in configured if path.is_file()]
    hosts = set(re.findall(r"https?://(?:[^@/\s]*@)?([^/\s:'\"]+)", " ".join(texts)))
    return {host for host in hosts if not host.startswith(("127.", "localhost", "["))}


def test_no_link_is_in_the_repository() -> None:
    """A checkout would put it over what is there, such as a virtual environment."""
    listed = subprocess.run(["git", "ls-files", "-s", "-z"], cwd=ROOT, capture_output=True).stdout
    assert [row for row in listed.decode().split("\0") if row.startswith("120000")] == []


def test_no_module_is_longer_than_one_idea() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in project_files()
        if path.suffix == ".py"
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LIMIT} == {}


def test_changelog_and_chart_have_the_version() -> None:
    chart = yaml.safe_load((ROOT / "charts/cachd/Chart.yaml").read_text())
    assert chart["appVersion"] == cachd.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?v?(\d+\.\d+\.\d+[^\]\s]*)", changelog, re.MULTILINE)
    assert versions, "CHANGELOG.md has no heading like '## 1.2.3' or '## [1.2.3]'"
    assert versions[0] == cachd.__version__


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_pins_everything_by_hash_and_names_no_index(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?://|file:|--(extra-)?index|--find-links", text)
    entries = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    loose = [
        entry
        for entry in entries
        if entry.strip() and not re.match(r"^[\w.-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:", entry)
    ]
    assert entries
    assert loose == []


def test_locks_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    asked = {
        "runtime": project["project"]["dependencies"],
        "build": groups["build"],
        "bench": groups["bench"],
        "api": groups["api"],
        "dev": [*project["project"]["dependencies"], *groups["build"], *groups["dev"]],
    }
    for name, requirements in asked.items():
        locked = re.findall(r"(?m)^([\w.-]+)", (ROOT / f"requirements/{name}.txt").read_text())
        wanted = {
            re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", item)[0]).lower()  # type: ignore[index]
            for item in requirements
            if isinstance(item, str)
        }
        assert wanted <= set(locked), f"requirements/{name}.txt is out of date: run `make lock`"


def test_runtime_is_locked_the_same_for_the_image_and_for_the_tests() -> None:
    runtime, dev = (
        dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / f"requirements/{name}.txt").read_text()))
        for name in ("runtime", "dev")
    )
    assert {name: dev.get(name) for name in runtime} == runtime


def test_no_file_names_a_registry_or_a_path_of_this_machine() -> None:
    hosts = registry_hosts()
    assert hosts
    unwanted = re.compile("|".join(re.escape(host) for host in sorted(hosts)))
    places = [f"{ROOT.parent}/", f"{Path.home()}/"]
    # One name below the top is too common to mean this machine.
    places = [place for place in places if place.count("/") > 2]
    found = []
    for path in project_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        named = unwanted.findall(text) + [place for place in places if place in text]
        found += [f"{path.relative_to(ROOT)}: {name}" for name in named]
    assert found == []


def test_scripts_can_be_run() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.suffix and path.is_file()]
    scripts.append(ROOT / ".ci/run")
    for path in scripts:
        assert path.read_text().startswith("#!/usr/bin/env bash\n"), path
        assert path.stat().st_mode & 0o111, path
        subprocess.run(["bash", "-n", path], check=True)


def test_values_schema_is_json_and_strict() -> None:
    schema = json.loads((ROOT / "charts/cachd/values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["config"]["additionalProperties"] is False
