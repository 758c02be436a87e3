"""The client is light: an init container has little memory and no time."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.fake_daemon import FakeDaemon

DAEMONS = {"aiohttp", "pydantic", "yaml", "aiobotocore", "botocore", "awscrt", "asyncio", "h11"}
CLOUDS = {"urllib.request", "xml"}
HEAVY = DAEMONS | CLOUDS

CODE = """
import sys
from cachd.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(code, *sorted(sys.modules), file=sys.stderr)
"""


def modules(*arguments: str) -> tuple[str, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, *names = done.stderr.splitlines()[-1].split()
    return code, set(names)


@pytest.mark.parametrize("command", ["pull", "ls", "top", "serve", "export"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code, names = modules(command, "--help")
    assert code == "0"
    assert names & HEAVY == set()


def test_a_pull_loads_nothing_heavy(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.add("s3://bucket/model", {"a": b"1", "b/c": b"2"})
    daemon.script.hide_path = True
    code, names = modules(
        "pull", "s3://bucket/model", str(tmp_path / "d"), "--socket", str(daemon.socket)
    )
    assert code == "0"
    assert (tmp_path / "d" / "b" / "c").read_bytes() == b"2"
    assert names & HEAVY == set()
