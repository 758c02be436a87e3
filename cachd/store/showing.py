"""A row of the index, for the store's callers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.store.types import StoredSnapshot

if TYPE_CHECKING:
    from cachd.store.rows import Row
    from cachd.store.startup import Opened


def show(opened: Opened, row: Row) -> StoredSnapshot:
    """``row`` as it is now, for the store's callers."""
    key, revision = row.key, row.revision
    manifests = opened.context.manifests
    path = opened.context.layout.snapshot(key, revision)
    return StoredSnapshot(
        key=key,
        revision=revision,
        path=path,
        tree=path / "tree",
        info=row.info,
        allocated=row.allocated,
        last_used=row.last_used / 1e9,
        is_current=row.is_current,
        damage=tuple(row.damage.values()),
        checked_at=row.checked_at,
        load=lambda: manifests.get(key, revision),
    )
