"""Where a secret must never be."""

from __future__ import annotations

from pathlib import Path

from tests.harness import Daemon

SECRET_WORDS = ("testsecret", "wrong-secret-3141", "header-secret-2718", "bogus-token-1618")


def assert_no_secret(daemon: Daemon) -> None:
    """Neither in the log, nor in a metric, nor anywhere below the root, nor in a process's
    arguments."""
    places = [daemon.log(), daemon.admin("GET", "/metrics").body.decode()]
    for path in daemon.root.rglob("*"):
        if path.is_file():
            places.append(path.read_bytes().decode("latin-1"))
        places.append(str(path))
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = arguments.read_bytes().decode("latin-1")
        except OSError:
            continue
        if "cachd" in text and "-c" not in text.split("\0"):
            places.append(text)
    for word in SECRET_WORDS:
        assert not any(word in place for place in places), word
