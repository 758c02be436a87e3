from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cachd.cli import main as entry
from tests.cli.fake_daemon import FakeDaemon

_LEAKS = ("AWS_", "S3_", "STORAGE_", "CA_BUNDLE_", "CACHD_", "HF_TOKEN", "awsAnonymous", "XDG_")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_LEAKS) or name.endswith("-headers"):
            monkeypatch.delenv(name)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path / "root", tmp_path / "cachd.sock")
    fake.start()
    yield fake
    fake.stop()


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out)
        return value


Run = Callable[..., Outcome]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = entry.main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


AnotherUser = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def another_user(tmp_path: Path) -> AnotherUser:
    """A context in which this process has the rights of uid 65534 (modules must be loaded)."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        if directory != Path("/tmp"):
            directory.chmod(0o755)
    (tmp_path / "cachd.sock").chmod(0o666)

    @contextmanager
    def become() -> Iterator[None]:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return become
