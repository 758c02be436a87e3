"""Models of hubs through a daemon: bytes, whose token goes where, and huggingface_hub's cache."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.world import tree_of
from tests.harness import Daemon, pull, running
from tests.servers.hub import Hub
from tests.servers.modelscope import ModelScope
from tests.servers.peers import peer_python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": os.urandom(20 << 20),
    "tokenizer/vocab.txt": b"a\nb\n",
    "empty.txt": b"",
}
TOKEN = "hf_reader_31415"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.store.is_once = True
        hub.add("org/private", FILES, private=True, readers={TOKEN})
        hub.add("org/m", FILES)
        yield hub


@pytest.fixture(scope="module")
def daemon(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("hubs")
    settings = {"FETCH_PART_SIZE": "8MiB", "FRESHNESS_INTERVAL": "0", "FETCH_ATTEMPTS": "2"}
    with running(home, {"HF_ENDPOINT": hub.url}, **settings) as daemon:
        yield daemon


def offline(code: str, cache: Path) -> Any:
    """What a program prints as JSON that has huggingface_hub, this cache, and no network."""
    done = subprocess.run(
        [peer_python(), "-c", f"import json, os\nfrom huggingface_hub import *\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(cache.parent),
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_private_model_whose_token_stays_at_the_hub(
    hub: Hub, daemon: Daemon, tmp_path: Path
) -> None:
    """Big files are at another host, whose URLs are good for one request here."""
    environ = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    done = pull(daemon, "hf://org/private", tmp_path / "m", **environ)
    assert done.returncode == 0, done.stderr
    assert tree_of(tmp_path / "m") == FILES
    refused = daemon.ask("hf://org/private")
    assert (refused.status, refused.json()["code"]) == (401, "credentials_missing")
    models = daemon.admin("GET", "/v1/models").json()["models"]
    (model,) = [model for model in models if model["uri"] == "hf://org/private"]
    page = daemon.admin("GET", f"/v1/models/{model['key']}?blocks=true").json()
    assert page["revision"] == hub.repositories["org/private"].branches["main"]
    assert page["metadata"]["name"] == "org/private"
    assert page["credentialed"]
    digests = {file["path"]: file["digests"] for file in page["manifest_files"]}
    assert "sha256" in str(digests["model.safetensors"])
    assert "git-sha1" in str(digests["config.json"])
    assert {seen.headers.get("authorization") for seen in hub.seen} == {f"Bearer {TOKEN}", None}
    assert len([seen for seen in hub.store.seen if seen.method == "GET"]) >= 3
    assert all("authorization" not in seen.headers for seen in hub.store.seen)
    assert TOKEN not in daemon.log()
    for path in daemon.root.rglob("*"):
        # What is on its way out may be gone by now.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_size < 1 << 20:
                assert TOKEN.encode() not in path.read_bytes(), path


def test_modelscope_and_its_token(daemon: Daemon, tmp_path: Path) -> None:
    with ModelScope() as hub:
        hub.store.is_once = True
        hub.add("org/m", FILES, private=True, readers={"ms-reader-27182"})
        environ = {"MODELSCOPE_ENDPOINT": hub.url, "MODELSCOPE_API_TOKEN": "ms-reader-27182"}
        done = pull(daemon, "modelscope://org/m", tmp_path / "m", **environ)
        assert done.returncode == 0, done.stderr
        assert tree_of(tmp_path / "m") == FILES
        none = pull(daemon, "modelscope://org/m", tmp_path / "n", MODELSCOPE_ENDPOINT=hub.url)
    assert (none.returncode, none.stdout) == (5, "")
    assert "send one that may read it (MODELSCOPE_API_TOKEN)" in none.stderr
    assert hub.seen[0].headers["authorization"] == "Bearer ms-reader-27182"
    for seen in hub.store.seen:
        assert not {"authorization", "cookie"} & seen.headers.keys()
    assert "ms-reader" not in daemon.log()


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_other_bytes_than_the_hub_says_are_refused(hub: Hub, daemon: Daemon, path: str) -> None:
    body = bytearray(FILES[path])
    body[-1] ^= 1
    name = f"org/lies-{path.partition('.')[0]}"
    hub.add(name, {path: FILES[path] + name.encode()}, lies={path: bytes(body) + name.encode()})
    answer = daemon.ask(f"hf://{name}")
    assert answer.json()["code"] == "digest_mismatch", answer.body


def test_the_same_weights_of_two_repositories_are_fetched_once(hub: Hub, daemon: Daemon) -> None:
    weights = {"w.safetensors": os.urandom(3 << 20)}
    hub.add("org/one", weights)
    hub.add("org/two", weights)
    assert daemon.ask("hf://org/one").json()["fetched_bytes"] == 3 << 20
    assert daemon.ask("hf://org/two").json()["fetched_bytes"] == 0
    # A repository whose rights keep others out takes the bytes from nobody.
    hub.add("org/gated", weights, gated=True, readers={TOKEN})
    hub.add("org/three", weights)
    gated = daemon.ask("hf://org/gated", credentials={"token": TOKEN}).json()
    assert gated["fetched_bytes"] == 0
    assert daemon.ask("hf://org/three").json()["fetched_bytes"] == 0
    assert daemon.ask("hf://org/gated").json()["code"] == "credentials_missing"


def test_a_branch_that_moves_is_another_revision(hub: Hub, daemon: Daemon) -> None:
    repository = hub.add("org/moving", {"a.json": b"1"})
    first = daemon.ask("hf://org/moving").json()
    second = repository.commit({"a.json": b"22"}, "main")
    assert daemon.ask("hf://org/moving").json()["revision"] == second
    pinned = daemon.ask(f"hf://org/moving:{first['revision']}").json()
    calls = len(hub.seen)
    again = daemon.ask(f"hf://org/moving:{first['revision']}").json()
    assert (pinned["bytes"], again["result"]) == (1, "hit")
    assert len(hub.seen) == calls, "a commit was looked at again"


# --- huggingface_hub's cache -------------------------------------------------------------------


def test_huggingface_hub_finds_it_offline(hub: Hub, daemon: Daemon, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    commit = hub.repositories["org/m"].branches["main"]
    done = pull(daemon, "--layout", "hf-cache", "hf://org/m", cache)
    assert done.returncode == 0, done.stderr
    repository = cache / "models--org--m"
    assert tree_of(repository) == {
        "refs/main": commit.encode(),
        **{f"snapshots/{commit}/{path}": body for path, body in FILES.items()},
    }
    found = offline(
        "print(json.dumps([snapshot_download('org/m'),"
        " snapshot_download('org/m', local_files_only=True, revision='main'),"
        " hf_hub_download('org/m', 'tokenizer/vocab.txt'),"
        " try_to_load_from_cache('org/m', 'config.json'),"
        f" hf_hub_download('org/m', 'model.safetensors', revision='{commit}'),"
        " [[r.repo_id, r.size_on_disk, sorted(r.refs)] for r in scan_cache_dir().repos],"
        " [str(w) for w in scan_cache_dir().warnings]]))",
        cache,
    )
    snapshot = str(repository / "snapshots" / commit)
    size = sum(map(len, FILES.values()))
    assert found == [
        snapshot,
        snapshot,
        f"{snapshot}/tokenizer/vocab.txt",
        f"{snapshot}/config.json",
        f"{snapshot}/model.safetensors",
        [["org/m", size, ["main"]]],
        [],
    ]


def test_a_second_revision_beside_the_first(hub: Hub, daemon: Daemon, tmp_path: Path) -> None:
    """As the variable says it, which is all that an init container of KServe's takes."""
    repository = hub.add("org/two-states", {"a.json": b"1"})
    first = repository.branches["main"]
    environ = {"CACHD_LAYOUT": "hf-cache", "STORAGE_ALLOW_PATTERNS": '["*.json"]'}
    assert pull(daemon, "hf://org/two-states", tmp_path, **environ).returncode == 0
    second = repository.commit({"a.json": b"2", "b.bin": b"3"}, "main")
    repository.branches["refs/pr/1"] = first
    for uri in (
        "hf://org/two-states",
        "hf://org/two-states:refs/pr/1",
        f"hf://org/two-states:{first}",
    ):
        assert pull(daemon, uri, tmp_path, **environ).returncode == 0
    assert tree_of(tmp_path / "models--org--two-states") == {
        "refs/main": second.encode(),
        "refs/refs/pr/1": first.encode(),
        f"snapshots/{first}/a.json": b"1",
        f"snapshots/{second}/a.json": b"2",
    }
    text = "print(json.dumps(open(hf_hub_download('org/two-states', 'a.json')).read()))"
    assert offline(text, tmp_path) == "2"


def test_datasets_have_a_place_of_their_own(hub: Hub, daemon: Daemon, tmp_path: Path) -> None:
    hub.add("datasets/org/d", {"train.csv": b"1,2"})
    uri = "cachd+hf://datasets/org/d"
    assert pull(daemon, uri, tmp_path, CACHD_LAYOUT="hf-cache").returncode == 0
    text = "print(json.dumps(snapshot_download('org/d', repo_type='dataset')))"
    assert offline(text, tmp_path).startswith(f"{tmp_path}/datasets--org--d/snapshots/")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["s3://b/m", "$"], "is for hf:// URIs"),
        (["/some/path", "$"], "is for hf:// URIs"),
        (["hf://org/m"], "needs a destination"),
        (["hf://org/m/onnx", "$"], "--allow 'onnx/*'"),
        (["hf://org/m", "$", "--view", "always"], "contradict"),
        (["hf://org/none", "$"], "there is no org/none"),
    ],
)
def test_what_has_no_such_layout(
    daemon: Daemon, tmp_path: Path, arguments: list[str], words: str
) -> None:
    cache = tmp_path / "cache"
    given = [argument.replace("$", str(cache)) for argument in arguments]
    done = pull(daemon, "--layout", "hf-cache", *given)
    assert done.returncode != 0
    assert words in done.stderr
    assert not cache.exists()


def test_what_fails_in_mid_copy_leaves_nothing(hub: Hub, daemon: Daemon, tmp_path: Path) -> None:
    commit = hub.repositories["org/m"].branches["main"]
    blocked = tmp_path / "models--org--m" / "snapshots" / commit
    (blocked / "config.json").mkdir(parents=True)
    done = pull(daemon, "--layout", "hf-cache", "hf://org/m", tmp_path)
    assert done.returncode != 0
    assert tree_of(tmp_path) == {}
    assert not (tmp_path / "models--org--m" / "refs").exists()


def test_without_a_daemon_by_the_fallback(hub: Hub, daemon: Daemon, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *[sys.executable, "-m", "cachd", "pull", "--layout", "hf-cache", "--fallback"],
            *["--wait-daemon", "0", "--socket", str(tmp_path / "none"), "hf://org/m"],
            str(tmp_path / "cache"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_ENDPOINT": hub.url},
    )
    assert done.returncode == 0, done.stderr
    (repository,) = (tmp_path / "cache").iterdir()
    commit = hub.repositories["org/m"].branches["main"]
    assert tree_of(repository / "snapshots" / commit) == FILES
    assert (repository / "refs/main").read_text() == commit
