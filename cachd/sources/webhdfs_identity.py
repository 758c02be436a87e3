"""Who asks WebHDFS: a delegation token, headers, a certificate, or just a name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from cachd.errors import ConfigInvalid
from cachd.model import Auth
from cachd.sources.http_rules import authority

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cachd.credentials import Credentials
    from cachd.settings import SourcesSettings
    from cachd.sources.base import SourceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class HdfsIdentity:
    """``user`` is a claim where nothing proves anything (``user.name``), and whom to act for
    (``doas``) where something does. ``has_pass``: something proves something."""

    user: str = ""
    token: str = field(default="", repr=False)
    has_pass: bool = False
    shown: str = "nobody in particular"

    @property
    def query(self) -> str:
        """What says who we are, as a query."""
        said = {"delegation": self.token}
        if self.user and not self.token:
            said["doas" if self.has_pass else "user.name"] = self.user
        return "&".join(f"{name}={quote(value, safe='')}" for name, value in said.items() if value)

    def query_after(self) -> str:
        """The same, to follow a query."""
        return f"&{self.query}" if self.query else ""

    def auth(self, base: str, headers: tuple[tuple[str, str], ...]) -> Auth:
        if not headers and not self.query:
            return Auth()
        return Auth(
            kind="headers", headers=headers, query=self.query, host=authority(urlsplit(base))
        )

    def without_secrets(self, text: str) -> str:
        return text.replace(self.token, "…") if self.token else text


async def identity_of(
    request: SourceRequest, settings: SourcesSettings, bases: Sequence[str]
) -> HdfsIdentity:
    """The caller's, the daemon's own, or none; ``bases`` are the namenodes, and headers for other
    hosts prove nothing to them. Raises ConfigInvalid."""
    user = request.location.options.user or ""
    if request.identity == "daemon":
        own = settings.hdfs
        token = await asyncio.to_thread(_read_token, own.token_file) if own.token_file else ""
        return _make(user or own.user or "", token, [], "the daemon's")
    given = request.credentials
    if request.identity != "caller" or given.anonymous:
        return _make(user, "", [], "")
    return _make(user, given.token, _other_passes(given, bases), "the caller's")


def _other_passes(given: Credentials, bases: Sequence[str]) -> list[str]:
    from cachd.sources.http_client import headers_for  # noqa: PLC0415  (heavy)

    found = ["headers"] if any(headers_for(given, base) for base in bases) else []
    return [*found, "certificate"] if given.client_pem else found


def _make(user: str, token: str, others: list[str], whose: str) -> HdfsIdentity:
    passes = (["delegation token"] if token else []) + others
    shown = f"{whose} {' and '.join(passes)}" if passes else "nobody in particular"
    if user and not token:
        shown = f"{shown}, for the user {user}" if passes else f"the user {user}, unproven"
    return HdfsIdentity(user=user, token=token, has_pass=bool(passes), shown=shown)


def _read_token(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except (OSError, ValueError):
        raise ConfigInvalid(
            "sources.hdfs.token_file can't be read", hint="mount the file, or correct its path"
        ) from None
