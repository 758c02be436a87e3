"""The example of docs/extending.md, as it stands there, in a daemon."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tests.harness import running
from tests.servers.loopback import Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The document's files, installed as pip leaves them."""
    place = tmp_path / "site"
    found = dict(BLOCK.findall(DOCUMENT.read_text()))
    assert set(found) == {"cachd_shelf/source.py", "cachd_shelf/registry.py", "pyproject.toml"}
    for name, text in found.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (place / "cachd_shelf" / "__init__.py").touch()
    project = tomllib.loads(found["pyproject.toml"])["project"]
    info = place / f"cachd_shelf-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return place


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[str]:
    """A web server's ``host:port`` with a model and its labels."""
    root = tmp_path / "www"
    for version in ("1", "2"):
        model = root / "llama" / version
        (model / "sub").mkdir(parents=True)
        rows = []
        for name in ("w.bin", "sub/c.json"):
            body = f"{name} of {version}".encode()
            (model / name).write_bytes(body)
            digest = hashlib.sha256(body).hexdigest()
            rows.append({"path": name, "size": len(body), "sha256": digest})
        (model / "index.json").write_text(json.dumps({"files": rows, "about": "a llama"}))
    handler = partial(SimpleHTTPRequestHandler, directory=root)
    with Server(handler) as server:
        (root / "labels").mkdir()
        places = {"latest": "llama/2", "stable": "llama/1"}
        labels = {label: f"shelf://{server.host}/{place}" for label, place in places.items()}
        (root / "labels" / "llama.json").write_text(json.dumps(labels))
        yield server.host


def test_the_documents_example_works_as_it_stands(tmp_path: Path, package: Path, shelf: str):
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    rule = {"name": "main", "kind": "labels", "url": f"http://{shelf}"}
    with running(
        tmp_path / "d", {"PYTHONPATH": path}, SOURCES_REGISTRIES=json.dumps([rule])
    ) as daemon:
        direct = daemon.ask(f"shelf://{shelf}/llama/2").json()
        assert Path(direct["path"], "w.bin").read_text() == "w.bin of 2"
        wanted = {
            "labels://llama": "2",
            "labels://llama/stable": "1",
            f"labels://{shelf}/llama/latest": "2",
            "labels://main/llama": "2",
        }
        for uri, version in wanted.items():
            answer = daemon.ask(uri).json()
            assert Path(answer["path"], "sub/c.json").read_text() == f"sub/c.json of {version}"
        missing = daemon.ask("labels://llama/none").json()
        assert missing["code"] == "not_found"
        assert "has no label 'none' in the registry main" in missing["detail"]
        # By its sha256 the same file is there once.
        again = daemon.ask("labels://main/llama").json()
        inodes = {Path(a["path"], "w.bin").stat().st_ino for a in (direct, again)}
        assert len(inodes) == 1
