"""Where a secret must never be."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.filesystems.injection import family
from tests.harness import Daemon

SECRET_WORDS = ("testsecret", "wrong-secret-3141", "header-secret-2718", "bogus-token-1618")


def written(daemon: Daemon) -> list[str]:
    """The log, the metrics, and all below the root, names as well."""
    return [daemon.log(), daemon.admin("GET", "/metrics").body.decode(), *texts_below(daemon.root)]


def texts_below(root: Path) -> list[str]:
    """Each path and what is in it; what is on its way out may be gone by then."""
    found = []
    for directory, names, files in os.walk(root):
        found += [f"{directory}/{name}" for name in [*names, *files]]
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                found.append(Path(directory, name).read_bytes().decode("latin-1"))
    return found


def arguments(daemon: Daemon) -> list[str]:
    """Of its processes. Another test may run at the same time, whose callers have secrets."""
    assert daemon.process is not None
    found = []
    for pid in family(daemon.process.pid):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode("latin-1"))
    return found


def assert_no_secret(daemon: Daemon) -> None:
    """Neither in the log, nor in a metric, nor anywhere below the root, nor in a process's
    arguments."""
    places = [*written(daemon), *arguments(daemon)]
    for word in SECRET_WORDS:
        assert not any(word in place for place in places), word
