"""Git over http(s)."""

from __future__ import annotations

from pathlib import Path

from pydantic import ByteSize

from cachd.settings.values import Section


class GitSettings(Section):
    """Git over http(s)."""

    max_listing: ByteSize = ByteSize(64 * 1024**2)
    """Most bytes that a server may send for the list of a commit's files; a server that can't leave
    the contents out (partial clone) sends those too."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
