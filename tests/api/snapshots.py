"""Snapshots on the disk, without a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.cache.types import Snapshot, View, ViewRequest
from cachd.model import Digest, Manifest, ManifestFile, Ref

if TYPE_CHECKING:
    from pathlib import Path

REVISION = "ab" * 16


def manifest_file(path: str, data: bytes, *, sha256: str = "") -> ManifestFile:
    from hashlib import blake2b

    block = 8 * 1024 * 1024
    blocks = tuple(
        blake2b(data[i : i + block], digest_size=8).hexdigest() for i in range(0, len(data), block)
    )
    digests = (Digest(algorithm="sha256", value=sha256),) if sha256 else ()
    return ManifestFile(path=path, size=len(data), blocks=blocks, digests=digests)


def write(root: Path, ref: Ref, files: dict[str, bytes]) -> Snapshot:
    tree = root / ref.key / "tree"
    listed = []
    for path, data in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        listed.append(manifest_file(path, data))
    tree.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        ref=ref,
        revision=REVISION,
        files=tuple(sorted(listed, key=lambda file: file.path)),
        created="2026-01-01T00:00:00Z",
        source="memory",
        is_credentialed=False,
        is_validated=True,
        is_immutable=False,
    )
    return Snapshot(
        key=ref.key, revision=REVISION, tree=str(tree), manifest=manifest, allocated=4096
    )


def show(root: Path, snapshot: Snapshot, request: ViewRequest) -> View:
    """A view in words alone."""
    return View(
        pod=request.pod,
        name=request.name,
        key=snapshot.key,
        uri=snapshot.manifest.ref.uri,
        revision=snapshot.revision,
        mode=request.mode,
        path=str(root / "views" / request.pod),
        device=1,
        inode=2,
        files=len(snapshot.manifest.files),
        bytes=snapshot.manifest.size,
        is_writable=request.mode == "copy",
        expires_in=None,
    )
