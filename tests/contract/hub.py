"""What the adapters of model hubs have in common: a token says who may read, and big files come
from the hub itself (tests/process/test_hubs.py has them elsewhere)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.contract.adapter import Adapter, Pass, Place, passes_of
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, address_of
from tests.servers.repositories import RepositoryServer


def by_token(good: str, wrong: str, denied: str, none_says: str) -> dict[str, Pass]:
    none = Pass(codes=("credentials_missing",), says=none_says)
    says = "the token that was sent"
    return passes_of(lambda token: {"token": token}, good, wrong, denied, says=says, none=none)


class Hub(Adapter):
    """``data`` marks requests for a file's bytes, ``closed`` is what keeps a repository from those
    who hold no good token."""

    data: ClassVar[str]
    closed: ClassVar[Mapping[str, object]]
    lacks: ClassVar[Mapping[str, str]] = {
        "archives": "a repository's files stay as they are",
        "keeps": "git has no file that is a directory",
        "markers": "git has no empty directories",
    }

    def __init__(self, server: RepositoryServer) -> None:
        super().__init__()
        self._hub = server
        self._hub.is_direct = True
        self._hub.tokens = set(self.passes["denied"].secrets)
        self.gate = Gate(address_of(self._hub.url))
        self._closing += [self._hub.close, self.gate.close]
        self.options = {"endpoint": self.gate.url}

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put(files, readers=set(self.passes["good"].secrets), **self.closed)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put(files)

    def _put(self, files: Mapping[str, bytes], **more: object) -> Place:
        name = f"org/{self.fresh_name()}"
        self._hub.add(name, dict(files), **more)
        return Place(self, name, dict(files))

    def uri(self, place: Place, path: str) -> str:
        return f"{self.name}://{place.name}/{path}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        files = {**place.files, path: body}
        kept = {name: each for name, each in files.items() if each is not None}
        self._hub.repositories[place.name].commit(kept, self._hub.branch)

    def is_data(self, seen: Seen) -> bool:
        return self.data in seen.target
