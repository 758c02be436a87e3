"""Git over http(s)."""

from __future__ import annotations

from pathlib import Path

from pydantic import ByteSize, model_validator

from cachd.settings.values import Section


class GitSettings(Section):
    """Git over http(s)."""

    max_listing: ByteSize = ByteSize(64 * 1024**2)
    """Most bytes that a server may send for the list of a commit's files; a server that can't leave
    the contents out (partial clone) sends those too."""

    host: str | None = None
    """The host (and port, if it isn't the usual one) that the daemon's own name and password are
    for. Where access rules lend them, they go there and nowhere else."""

    username: str | None = None
    """The daemon's own name at `host`."""

    password_file: Path | None = None
    """File with the daemon's own password or token at `host`. Read at every call."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    @model_validator(mode="after")
    def _is_whole(self) -> GitSettings:
        if (self.username or self.password_file) and not self.host:
            raise ValueError("say which host the name and the password are for: host")
        return self
