"""The revision of a plan whose source has no name of its own for a state of all files. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.model import PlannedFile


def revision_of(files: Sequence[PlannedFile]) -> str:
    """32 hex digits over path, size and validator of each file, whatever their order."""
    rows = sorted(
        [f.path, f.size, f.validator.version_id or f.validator.etag or f.validator.last_modified]
        for f in files
    )
    return hash_state(rows)


def hash_state(state: Sequence[object]) -> str:
    """32 hex digits over whatever tells one state of a model from another (JSON)."""
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]
