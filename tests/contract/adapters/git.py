"""Git over http: a real server, whose ``*.bin`` files are in Git LFS, at a storage of their own.

Commits are made by ``git fast-import``, one process each; tests/sources/test_git.py has them pushed
by the real client."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest

from tests.contract.adapter import Adapter, Pass, Place, passes_of
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, Refusal, address_of
from tests.servers import require
from tests.servers.git import GitServer

GOOD, WRONG, DENIED = "git-good-5772", "git-wrong-6931", "git-poor-1644"
_OBJECT = re.compile(r"/[0-9a-f]{64}")


class Git(Adapter):
    """A place is a directory of one of two repositories: commits cost, and repositories more."""

    name = "git"
    lacks: ClassVar[Mapping[str, str]] = {
        "archives": "a repository's files stay as they are",
        "huge": "a plan holds one pack, whatever is in it",
        "keeps": "git has no file that is a directory",
        "markers": "git has no empty directories",
    }
    passes: ClassVar[Mapping[str, Pass]] = passes_of(
        lambda password: {"username": "me", "password": password}, GOOD, WRONG, DENIED,
        says="the caller's user and password",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._server = GitServer(folder, users={"me": GOOD})
        storage = address_of(self._server.storage)
        self.gate = Gate(address_of(self._server.url), None, self._guard)
        self.gate.route = lambda seen: storage if _OBJECT.fullmatch(seen.path) else None
        self._server.storage = self.gate.url
        self._closing += [self._server.stop, self.gate.close]
        self._heads: dict[str, int] = {}
        for name in ("private.git", "public.git"):
            self._server.make(name, is_private=name == "private.git")

    def _guard(self, seen: Seen) -> Refusal | None:
        kind, _, shown = seen.headers.get("authorization", "").partition(" ")
        is_denied = kind == "Basic" and DENIED.encode() in base64.b64decode(shown)
        return (403, {}, b"") if is_denied else None

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put("private.git", files)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put("public.git", files)

    def _put(self, repository: str, files: Mapping[str, bytes]) -> Place:
        place = Place(self, f"{repository}@main/{self.fresh_name()}", dict(files))
        self._commit(place, files)
        return place

    def _commit(self, place: Place, files: Mapping[str, bytes | None]) -> None:
        repository, _, folder = place.name.partition("@main/")
        count = self._heads[repository] = self._heads.get(repository, 0) + 1
        lines = [
            b"commit refs/heads/main",
            b"committer a <a@example.com> %d +0000" % count,
            b"data 0",
            *([b"from refs/heads/main^0"] if count > 1 else []),
        ]
        for path, body in files.items():
            name = f"{folder}/{path}".replace("\\", "\\\\").replace('"', '\\"').encode()
            if body is None:
                lines.append(b'D "%s"' % name)
                continue
            stored = self._pointer(body) if path.endswith(".bin") and body else body
            lines += [b'M 100644 inline "%s"' % name, b"data %d" % len(stored), stored]
        subprocess.run(
            ["git", "fast-import", "--quiet"],
            cwd=self._server.root / repository,
            input=b"\n".join([*lines, b""]),
            check=True,
        )

    def _pointer(self, body: bytes) -> bytes:
        """What git has of a file in LFS (git-lfs, docs/spec.md)."""
        name = hashlib.sha256(body).hexdigest()
        self._server.objects[name] = body
        version = "https://git-lfs.github.com/spec/v1"
        return f"version {version}\noid sha256:{name}\nsize {len(body)}\n".encode()

    def uri(self, place: Place, path: str) -> str:
        assert self.gate is not None
        return f"{self.gate.url}/{place.name}" + (f"/{quote(path)}" if path else "")

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        self._commit(place, {path: body})

    def put_hostile(self, names: list[str]) -> Place:
        name = f"{self.fresh_name()}.git"
        self._server.make(name, is_private=True)
        self._server.put_raw(name, names)
        return Place(self, name, dict.fromkeys(names, b"x"))

    def holds(self, path: str) -> bool:
        return "\0" not in path

    def is_data(self, seen: Seen) -> bool:
        return bool(_OBJECT.fullmatch(seen.path)) and seen.method == "GET"


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    require.program("git", "git")
    return Git(folder)
