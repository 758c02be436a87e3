"""``mlflow://``: a model's newest version, whose files are behind the server's artifact proxy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest

from tests.contract.adapter import Adapter, Pass, Place, passes_of
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, Refusal, address_of
from tests.servers.mlflow import FILES, Mlflow

GOOD, WRONG, DENIED = "mlflow-good-5772", "mlflow-wrong-6931", "mlflow-poor-1644"
DIRECTORY = "an MLflow model is a directory"
SIZES = "the proxy tells sizes, and nothing of the bytes"


class MlflowProxy(Adapter):
    """A row's file stands for the directory that it lies in. Other bytes are another version in a
    directory of its own, as MLflow logs them; what goes is deleted from under its version."""

    name = "mlflow"
    lacks: ClassVar[Mapping[str, str]] = {
        "exact": DIRECTORY,
        "keeps": DIRECTORY,
        "markers": "the proxy's lists say which names are directories",
        "digests": SIZES,
        "sha256": SIZES,
        "ranges": "a server has the whole file fetched for each range of it, so none are asked for",
        "public": "who may ask is the server's own setting, one for all models",
    }
    passes: ClassVar[Mapping[str, Pass]] = passes_of(
        lambda token: {"registry_token": token}, GOOD, WRONG, DENIED,
        says="the caller's registry_token",
        none=Pass(codes=("credentials_missing",), says="no credentials"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._server = Mlflow()
        self._server.authorization = f"Bearer {GOOD}"
        self.gate = Gate(address_of(self._server.url), None, self._guard)
        self._closing += [self._server.close, self.gate.close]
        self.options = {"registry": self.gate.url}
        self._roots: dict[str, list[str]] = {}
        self._folders: dict[tuple[str, str], str] = {}

    def _guard(self, seen: Seen) -> Refusal | None:
        is_denied = seen.headers.get("authorization") == f"Bearer {DENIED}"
        return (403, {}, b"{}") if is_denied else None

    def put(self, files: Mapping[str, bytes]) -> Place:
        place = Place(self, self.fresh_name(), dict(files))
        self._log(place, files)
        return place

    def put_hostile(self, names: list[str]) -> Place:
        """Names that would be other directories' are told as they are, where lists have names."""
        place = self.put({})
        for name in names:
            if set(name.split("/")) & {"", ".", ".."} or "/" not in name:
                row = {"path": name, "is_dir": False, "file_size": 1}
                self._server.listed.setdefault(self._root(place), []).append(row)
            else:
                self._server.files[f"{self._root(place)}/{name}"] = b"x"
        return place

    def uri(self, place: Place, path: str) -> str:
        """Each has a name of its own, with a version for each state of the place."""
        inside = path.rpartition("/")[0] if path in place.files else path
        folder = self._folders.setdefault((place.name, path), inside)
        model = f"{place.name}/{path}".encode().hex()
        self._server.versions[model] = {
            str(number): f"mlflow-artifacts:/{quote(f'{root}/{folder}' if folder else root)}"
            for number, root in enumerate(self._roots[place.name], 1)
        }
        return f"mlflow://{model}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        if body is None:
            gone = f"{self._root(place)}/{path}"
            kept = {name: each for name, each in self._server.files.items() if name != gone}
            self._server.files = kept
            return
        self._log(place, {**place.files, path: body})
        for (name, asked), _ in list(self._folders.items()):
            if name == place.name:
                self.uri(place, asked)

    def _log(self, place: Place, files: Mapping[str, bytes]) -> None:
        roots = self._roots.setdefault(place.name, [])
        roots.append(f"1/{place.name}-{len(roots)}/artifacts")
        logged = {f"{roots[-1]}/{path}": body for path, body in files.items()}
        self._server.files = {**self._server.files, **logged}

    def _root(self, place: Place) -> str:
        return self._roots[place.name][-1]

    def is_data(self, seen: Seen) -> bool:
        return seen.path.startswith(f"{FILES}/")

    def tree(self, place: Place, path: str = "") -> dict[str, bytes]:
        return super().tree(place, path.rpartition("/")[0] if path in place.files else path)


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return MlflowProxy()
