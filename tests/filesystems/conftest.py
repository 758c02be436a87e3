from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.filesystems import volumes
from tests.filesystems.volumes import MIB, Volume
from tests.harness import Daemon
from tests.process.origin import CountingOrigin

MakeVolume = Callable[..., Volume]


@pytest.fixture
def make_volume(tmp_path: Path) -> Iterator[MakeVolume]:
    """``make_volume("ext4", MIB * 128)``; unmounted and removed in the end."""
    with ExitStack() as stack:

        def make(kind: str, size: int, options: str = "", name: str = "volume") -> Volume:
            path = tmp_path / name
            if kind == "tmpfs":
                return stack.enter_context(volumes.tmpfs(path, size))
            return stack.enter_context(volumes.loop(path, kind, size, options))

        yield make


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """A daemon whose root is on a volume; ended before the volume goes."""
    made: list[Daemon] = []

    def start(
        where: Volume | Path,
        *,
        prefix: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Daemon:
        root = where.root if isinstance(where, Volume) else where
        chosen = {
            "STORE_QUOTA": "100%",
            "STORE_FREE_FLOOR": "0",
            "STORE_INODE_FLOOR": "0.001",
            "STORE_WATCH_INTERVAL": "0.2",
            "STORE_MIN_IDLE": "3600",
            "FRESHNESS_INTERVAL": "3600",
            "STORE_ROOT": str(root),
            **settings,
        }
        daemon = Daemon(
            tmp_path / f"daemon-{len(made)}",
            settings=chosen,
            environ=dict(environ or {}),
            prefix=list(prefix),
        )
        daemon.root = root
        made.append(daemon)
        return daemon.start()

    yield start
    for daemon in made:
        daemon.close()


def pull(daemon: Daemon, origin: CountingOrigin, name: str, size: int = MIB, **body: Any) -> dict:
    """Ask for a model of one file; the answer with its status."""
    origin.bodies.setdefault(f"/{name}.bin", os.urandom(size))
    reply = daemon.ask(f"{origin.url}/{name}.bin", **body)
    return {"status": reply.status, **reply.json()}


def is_right(answer: dict, origin: CountingOrigin, name: str) -> bool:
    return Path(answer["path"], f"{name}.bin").read_bytes() == origin.bodies[f"/{name}.bin"]


def names(daemon: Daemon) -> set[str]:
    models = daemon.admin("GET", "/v1/models").json()["models"]
    return {
        m["uri"].rpartition("/")[2].removesuffix(".bin") for m in models if m["state"] == "ready"
    }


def ready(daemon: Daemon) -> dict:
    return daemon.admin("GET", "/readyz").json()


def ask_in_background(*arguments: Any, **more: Any) -> tuple[threading.Thread, dict]:
    answer: dict = {}
    thread = threading.Thread(target=lambda: answer.update(pull(*arguments, **more)))
    thread.start()
    return thread, answer


def journalled(daemon: Daemon) -> int:
    """Finished parts of the one ingest."""
    for journal in (daemon.root / "ingest").glob("*/journal"):
        return sum(1 for line in journal.read_bytes().splitlines() if b'"offset"' in line)
    return 0
