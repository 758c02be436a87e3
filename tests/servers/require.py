"""What a test wants of the machine: without it the test is skipped, and under ``.ci/run``, which
installs what Debian has (CACHD_TEST_REQUIRE=1), it fails. That is only asked of root: what takes
another uid, a network of its own or a mount can't be done by anybody else, and is skipped."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from tests.servers.process import find_program

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="changing the uid or the network needs root"
)


def missing(what: str) -> NoReturn:
    """Skip, or fail where nothing may be missing."""
    if os.environ.get("CI") or os.environ.get("CACHD_TEST_REQUIRE"):
        pytest.fail(f"{what} is not installed (scripts/install-test-packages)")
    pytest.skip(f"{what} is not installed (scripts/install-test-packages)")


def program(name: str, package: str) -> str:
    """The path of a program that the Debian ``package`` has."""
    found = find_program(name)
    if found is None:
        for directory in ("/usr/sbin", "/sbin"):
            if os.access(f"{directory}/{name}", os.X_OK):
                return f"{directory}/{name}"
        missing(f"{name} (Debian: {package})")
    return found


def root() -> None:
    """Mounting takes root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
