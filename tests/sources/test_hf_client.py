"""The server that stands for the Hub here, held to huggingface_hub itself."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.world import tree_of
from tests.servers.hub import Hub
from tests.servers.peers import peer_python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "config.json": b"{}",
    "model.safetensors": os.urandom(300_000),
    "a/b/c.txt": b"text",
    "empty.txt": b"",
}
CODE = """
import json, os, sys
from huggingface_hub import (
    HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
)

def error(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__

api = HfApi()
tree = api.list_repo_tree("org/m", recursive=True, revision="main")
print(json.dumps({
    "folder": snapshot_download("org/m", local_dir=os.environ["FOLDER"]),
    "tree": {f.path: [f.size, f.lfs and f.lfs.sha256] for f in tree if hasattr(f, "size")},
    "info": [api.model_info("org/m").sha, api.dataset_info("org/d").id],
    "moved": api.model_info("old/m").id,
    "errors": {
        "missing": error(lambda: api.model_info("org/none", token=False)),
        "missing, with a token": error(lambda: api.model_info("org/none", token="hf_reader")),
        "private": error(lambda: api.model_info("org/private", token=False)),
        "private, with a token": api.model_info("org/private", token="hf_reader").id,
        "gated": error(lambda: hf_hub_download("org/gated", "config.json", token=False)),
        "gated, a stranger": error(
            lambda: hf_hub_download("org/gated", "config.json", token="hf_stranger")),
        "gated lists": api.model_info("org/gated", token=False).gated,
        "revision": error(lambda: api.model_info("org/m", revision="none")),
        "file": error(lambda: hf_hub_download("org/m", "none.json")),
        "folder": error(lambda: list(api.list_repo_tree("org/m", "none"))),
        "disabled": error(lambda: get_hf_file_metadata(hf_hub_url("org/disabled", "config.json"))),
        "bad token": error(lambda: api.model_info("org/m", token="hf_bad")),
    },
}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.page = 2
        hub.add("org/m", FILES)
        hub.add("datasets/org/d", FILES)
        hub.add("old/m", {}, moved="org/m")
        hub.add("org/private", FILES, private=True, readers={"hf_reader"})
        hub.add("org/gated", FILES, gated=True, readers={"hf_reader"})
        hub.add("org/disabled", FILES, disabled=True)
        hub.tokens.add("hf_stranger")
        yield hub


def test_its_client_sees_what_it_sees_at_the_hub(hub: Hub, tmp_path: Path) -> None:
    done = subprocess.run(
        [peer_python(), "-c", CODE],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "FOLDER": str(tmp_path / "folder"),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    tree = tree_of(tmp_path / "folder")
    assert {path: body for path, body in tree.items() if not path.startswith(".cache/")} == FILES
    assert {path: size for path, (size, _) in seen["tree"].items()} == {
        path: len(body) for path, body in FILES.items()
    }
    assert [path for path, (_, sha256) in seen["tree"].items() if sha256] == ["model.safetensors"]
    assert seen["info"] == [hub.repositories["org/m"].branches["main"], "org/d"]
    assert seen["moved"] == "org/m"
    assert seen["errors"] == {
        "missing": "RepositoryNotFoundError",
        "missing, with a token": "RepositoryNotFoundError",
        "private": "RepositoryNotFoundError",
        "private, with a token": "org/private",
        "gated": "GatedRepoError",
        "gated, a stranger": "GatedRepoError",
        "gated lists": "manual",
        "revision": "RevisionNotFoundError",
        "file": "RemoteEntryNotFoundError",
        "folder": "RemoteEntryNotFoundError",
        "disabled": "DisabledRepoError",
        "bad token": "HfHubHTTPError",
    }
