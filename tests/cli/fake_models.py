"""Models in a directory like the real one (``snapshots/KEY/REVISION/tree``)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from awscrt.checksums import crc64nvme

from cachd.model import BLOCK_SIZE, Digest, Manifest, ManifestFile, make_ref

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Model:
    key: str
    uri: str
    revision: str
    tree: Path
    manifest: Manifest

    @property
    def size(self) -> int:
        return self.manifest.size


def row(model: Model) -> dict[str, Any]:
    return {
        "key": model.key,
        "uri": model.uri,
        "origin": "fake",
        "allow": [],
        "ignore": [],
        "state": "ready",
        "revision": model.revision,
        "revisions": [model.revision],
        "files": len(model.manifest.files),
        "bytes": model.size,
        "allocated": model.size,
        "last_used": "2026-01-01T00:00:00Z",
        "pinned": False,
        "credentialed": False,
        "validated": True,
        "leases": 0,
        "progress": None,
    }


def keep(root: Path, uri: str, files: dict[str, bytes]) -> Model:
    ref = make_ref(uri=uri, origin="fake", is_default_origin=True)
    revision = hashlib.sha256(
        json.dumps(sorted((p, hashlib.sha256(d).hexdigest()) for p, d in files.items())).encode()
    ).hexdigest()[:32]
    tree = root / "snapshots" / ref.key / revision / "tree"
    entries = []
    for path, data in sorted(files.items()):
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        entries.append(
            ManifestFile(
                path=path,
                size=len(data),
                blocks=tuple(
                    f"{crc64nvme(data[i : i + BLOCK_SIZE]):016x}"
                    for i in range(0, len(data), BLOCK_SIZE)
                ),
                digests=(Digest(algorithm="sha256", value=hashlib.sha256(data).hexdigest()),),
            )
        )
    manifest = Manifest(
        ref=ref,
        revision=revision,
        files=tuple(entries),
        created="2026-01-01T00:00:00Z",
        source="fake",
        is_credentialed=False,
        is_validated=True,
        is_immutable=False,
    )
    return Model(ref.key, uri, revision, tree, manifest)
