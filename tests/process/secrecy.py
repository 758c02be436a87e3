"""Where a secret must never be."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.harness import Daemon

SECRET_WORDS = ("testsecret", "wrong-secret-3141", "header-secret-2718", "bogus-token-1618")


def written(daemon: Daemon) -> list[str]:
    """The log, the metrics, and all below the root, names as well."""
    found = [daemon.log(), daemon.admin("GET", "/metrics").body.decode()]
    for path in daemon.root.rglob("*"):
        found.append(str(path))
        if path.is_file():
            found.append(path.read_bytes().decode("latin-1"))
    return found


def arguments() -> list[str]:
    """Of every process of cachd's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode("latin-1"))
    return [text for text in found if "cachd" in text]


def assert_no_secret(daemon: Daemon) -> None:
    """Neither in the log, nor in a metric, nor anywhere below the root, nor in a process's
    arguments."""
    places = written(daemon)
    places += [text for text in arguments() if "-c" not in text.split("\0")]
    for word in SECRET_WORDS:
        assert not any(word in place for place in places), word
