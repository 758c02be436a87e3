"""``file://`` read by the daemon, below a root that an operator lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from tests.contract.adapter import Adapter, Place
from tests.origins.exchange import Seen

NO_HTTP = "it is read from the disk"
LISTS_PATHS = "a file system lists nothing else"


class Files(Adapter):
    name = "file"
    lacks: ClassVar[Mapping[str, str]] = {
        "faults": NO_HTTP,
        "ranges": NO_HTTP,
        "digests": "a file system knows none",
        "sha256": "a file system knows none",
        "passes": "whoever asks may have what lies below the roots",
        "public": "whoever asks may have what lies below the roots",
        "hostile": LISTS_PATHS,
        "keeps": LISTS_PATHS,
        "markers": "a directory is one",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.settings = {"SOURCES_FILE_ROOTS": f'["{folder}"]'}

    def put(self, files: Mapping[str, bytes]) -> Place:
        place = Place(self, self.fresh_name(), dict(files))
        (self._folder / place.name).mkdir()
        for path, body in files.items():
            self.change(place, path, body)
        return place

    def uri(self, place: Place, path: str) -> str:
        base = f"file://{self._folder}/{place.name}"
        return f"{base}/{path}" if path else base

    def is_data(self, seen: Seen) -> bool:
        """Nothing of it goes over HTTP."""
        return False

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        file = self._folder / place.name / path
        if body is None:
            file.unlink()
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return Files(folder)
