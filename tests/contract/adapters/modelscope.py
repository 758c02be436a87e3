"""``modelscope://``: private repositories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from tests.contract.adapter import Adapter, Pass, Place
from tests.origins.exchange import Seen
from tests.origins.gate import Gate
from tests.servers.modelscope import ModelScope

GOOD, WRONG, DENIED = "ms-good-5772", "ms-wrong-6931", "ms-poor-1644"


class ModelScopes(Adapter):
    """Big files come from the hub itself."""

    name = "modelscope"
    lacks: ClassVar[Mapping[str, str]] = {
        "archives": "a repository's files stay as they are",
        "keeps": "git has no file that is a directory",
        "markers": "git has no empty directories",
    }
    passes: ClassVar[Mapping[str, Pass]] = {
        "good": Pass(credentials={"token": GOOD}, secrets=(GOOD,)),
        "wrong": Pass(
            credentials={"token": WRONG},
            secrets=(WRONG,),
            codes=("credentials_invalid",),
            says="the token that was sent",
        ),
        "denied": Pass(
            credentials={"token": DENIED},
            secrets=(DENIED,),
            codes=("access_denied",),
            says="the token that was sent",
        ),
        "none": Pass(codes=("credentials_missing",), says="without a token"),
    }

    def __init__(self) -> None:
        super().__init__()
        self._hub = ModelScope()
        self._hub.is_direct = True
        self._hub.tokens = {DENIED}
        where = urlsplit(self._hub.url)
        assert where.hostname
        assert where.port
        self.gate = Gate((where.hostname, where.port))
        self._closing += [self._hub.close, self.gate.close]
        self.options = {"endpoint": self.gate.url}

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put(files, private=True, readers={GOOD})

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put(files)

    def _put(self, files: Mapping[str, bytes], **more: object) -> Place:
        name = f"org/{self.fresh_name()}"
        self._hub.add(name, dict(files), **more)
        return Place(self, name, dict(files))

    def uri(self, place: Place, path: str) -> str:
        return f"modelscope://{place.name}/{path}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        files = {**place.files, path: body}
        kept = {name: each for name, each in files.items() if each is not None}
        self._hub.repositories[place.name].commit(kept, "master")

    def is_data(self, seen: Seen) -> bool:
        return "/repo?" in seen.target


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return ModelScopes()
