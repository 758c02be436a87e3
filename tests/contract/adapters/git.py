"""Git over http: a real server behind the gate, and packs. Git LFS, whose objects come in ranges
and by sha256, is in tests/process/test_git.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

import pytest

from cachd.sources.git_pkt import fetch_request
from tests.contract.adapter import Adapter, Pass, Place
from tests.origins.exchange import Seen
from tests.origins.gate import Gate
from tests.servers import require
from tests.servers.git import GitServer

GOOD, WRONG, DENIED = "good-password-5772", "wrong-password-6931", "poor-password-1644"
_WHOLE = str(len(fetch_request("0" * 40, is_filtered=False)))
"""Bytes of a question for all that a commit has."""


def user(name: str, password: str, **fields: object) -> Pass:
    return Pass(
        credentials={"username": name, "password": password},
        secrets=(password,),
        says="the caller's user and password",
        **fields,  # type: ignore[arg-type]
    )


class Git(Adapter):
    name = "git"
    lacks: ClassVar[Mapping[str, str]] = {
        "archives": "a commit's files stay as they are",
        "huge": "a plan holds one pack, whatever is in it",
        "keeps": "git has no file that is a directory",
        "markers": "git has no empty directories",
        "ranges": "a pack is one stream",
        "sha256": "files outside of LFS have git's own names",
    }
    passes: ClassVar[Mapping[str, Pass]] = {
        "good": user("alice", GOOD),
        "wrong": user("alice", WRONG, codes=("credentials_invalid",)),
        "denied": user("bob", DENIED, codes=("access_denied",)),
        "none": Pass(codes=("credentials_missing",), says="GIT_USERNAME"),
    }

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._git = GitServer(folder, users={"alice": GOOD, "bob": DENIED}, poor={"bob"})
        where = urlsplit(self._git.url)
        assert where.hostname
        assert where.port
        self.gate = Gate((where.hostname, where.port))
        self._closing += [self._git.stop, self.gate.close]

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put(files, is_private=True)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put(files, is_private=False)

    def put_hostile(self, names: list[str]) -> Place:
        place = self._put({}, is_private=True)
        self._git.put_raw(place.name, names)
        return place

    def _put(self, files: Mapping[str, bytes], *, is_private: bool) -> Place:
        name = f"{self.fresh_name()}.git"
        self._git.make(name, is_private=is_private)
        if files:
            self._git.put(name, files)
        return Place(self, name, dict(files))

    def uri(self, place: Place, path: str) -> str:
        assert self.gate is not None
        return f"{self.gate.url}/{place.name}" + (f"@main/{quote(path)}" if path else "")

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        files = {**place.files, path: body}
        self._git.put(place.name, {name: each for name, each in files.items() if each is not None})

    def is_data(self, seen: Seen) -> bool:
        is_pack = seen.path.endswith("/git-upload-pack")
        return is_pack and seen.headers.get("content-length") == _WHOLE

    def holds(self, path: str) -> bool:
        return "\0" not in path


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    require.program("git", "git")
    return Git(folder)
