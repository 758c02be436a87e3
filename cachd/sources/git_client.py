"""Calls at a git server: refs and packs by smart HTTP in protocol version 2, and the batch API of
Git LFS (gitprotocol-http and gitprotocol-v2 of git's documentation; git-lfs, docs/api)."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from cachd.errors import (
    AccessError,
    CachdError,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
    UriInvalid,
)
from cachd.model import SignedUrl
from cachd.sources.git_pkt import fetch_request, lines_of, refusal, request
from cachd.sources.http_client import FORBIDDEN_HEADERS
from cachd.sources.http_rules import origin_of, shown, split_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cachd.sources.git_tree import Pointer
    from cachd.sources.http_client import HttpAnswer, HttpClient

VERSION_2 = ("Git-Protocol", "version=2")
PACK_HEADERS = (
    VERSION_2,
    ("Content-Type", "application/x-git-upload-pack-request"),
    ("Accept", "application/x-git-upload-pack-result"),
)
_ADVERTISED = "application/x-git-upload-pack-advertisement"
_INFO = "/info/refs?service=git-upload-pack"
_LFS_TYPE = "application/vnd.git-lfs+json"
_REFS_MOST = 16 * 1024 * 1024
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,8192}")
_BATCH = 100
"""Objects of one question to LFS; servers refuse more than some hundreds."""


@dataclass(frozen=True, slots=True)
class Ref:
    """``name`` in full; ``commit`` with tags peeled."""

    name: str
    commit: str


@dataclass(frozen=True, slots=True)
class Links:
    """Where LFS objects are had for a while, and until when (seconds since the epoch)."""

    signed: tuple[SignedUrl, ...] = field(default=(), repr=False)
    expires: float | None = None


class GitClient:
    """One repository. ``who`` tells in messages whose pass is used; ``has_pass``: whether one is.
    ``base``: the repository's URL, after ``greet`` the one that it has moved to."""

    def __init__(self, client: HttpClient, base: str, headers: Mapping[str, str], who: str) -> None:
        self._client = client
        self.headers = dict(headers)
        self._who = who
        self.base = base
        self.has_filter = False

    async def greet(self) -> None:
        """What the server can do; proves that the repository may be read. Raises NotFound,
        AccessError, OriginError."""
        answer = await self._call("GET", self.base + _INFO, (VERSION_2,), None, _REFS_MOST)
        self._check(answer)
        lines = [line or b"" for line in lines_of(answer.body)] if self._is_git(answer) else []
        if not answer.url.endswith(_INFO) or not self._is_git(answer):
            raise OriginError(
                f"{shown(self.base)} is no git repository that can be read by http",
                hint="is this the URL that git clones?",
            )
        if b"version 2" not in lines:
            raise OriginError(
                f"{shown(self.base)} doesn't speak version 2 of git's protocol",
                hint="git has spoken it since 2.18; a server can have it switched off",
            )
        for line in lines:
            if line.startswith(b"object-format=") and line != b"object-format=sha1":
                raise OriginError(
                    f"{shown(self.base)} is a repository with sha256 names",
                    hint="only those with sha1 names can be read",
                )
        fetch = next((line for line in lines if line.split(b"=")[0] == b"fetch"), b"")
        self.has_filter = b"filter" in fetch.partition(b"=")[2].split()
        moved = answer.url.removesuffix(_INFO)
        if origin_of(moved) != origin_of(self.base):
            # What proves the caller is for the host that it named.
            self.headers = {}
        self.base = moved

    @staticmethod
    def _is_git(answer: HttpAnswer) -> bool:
        return answer.headers.get("Content-Type", "").startswith(_ADVERTISED)

    async def find(self, ref: str) -> Ref:
        """As git looks for a name: in full, among the tags, among the branches. Raises NotFound."""
        names = [ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}"] if ref else ["HEAD"]
        body = request("ls-refs", ["peel", "symrefs", *(f"ref-prefix {name}" for name in names)])
        found = {one.name: one for one in _refs(await self._post(body, _REFS_MOST))}
        for name in names:
            if name in found:
                return found[name]
        if not ref:
            raise NotFound(
                f"No model found in {shown(self.base)}: the repository is empty, or its HEAD leads "
                "nowhere",
                hint="name a branch: repo.git@main",
            )
        raise NotFound(
            f"{shown(self.base)} has no branch and no tag {ref[:100]!r}",
            hint="a commit is named by all its 40 digits",
        )

    async def listing(self, commit: str, most: int) -> bytes:
        """An answer with a pack of the commit: trees, and small files or, if the server can't tell
        them apart, all files. Raises ContentError for more than ``most`` bytes."""
        try:
            return await self._post(fetch_request(commit, is_filtered=self.has_filter), most)
        except ContentError:
            can = "" if self.has_filter else " by a server without partial clone"
            raise ContentError(
                f"the list of the files of {commit[:12]} takes more than {most} bytes{can}",
                hint="uploadpack.allowFilter of the server makes it short; else raise "
                "sources.git.max_listing",
            ) from None

    async def links(self, pointers: Sequence[Pointer], *, is_lenient: bool = False) -> Links:
        """Where LFS objects are had. Raises NotFound for one that the server doesn't have, unless
        ``is_lenient``."""
        signed: list[SignedUrl] = []
        ends: list[float] = []
        for first in range(0, len(pointers), _BATCH):
            for action in await self._batch(pointers[first : first + _BATCH], is_lenient):
                signed.append(action[0])
                ends += action[1]
        return Links(tuple(signed), min(ends, default=None))

    def lfs_url(self, oid: str) -> str:
        """What a plan calls an LFS object: it isn't had there."""
        return f"{self.base}/info/lfs/objects/{oid}"

    async def _batch(
        self, pointers: Sequence[Pointer], is_lenient: bool
    ) -> list[tuple[SignedUrl, list[float]]]:
        asked = {
            "operation": "download",
            "transfers": ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": one.oid, "size": one.size} for one in pointers],
        }
        url = f"{self.base}/info/lfs/objects/batch"
        headers = (("Accept", _LFS_TYPE), ("Content-Type", _LFS_TYPE))
        answer = await self._call("POST", url, headers, json.dumps(asked).encode(), _REFS_MOST)
        if answer.status in (404, 501):
            raise NotFound(
                f"{shown(self.base)} has files in Git LFS, but no LFS server ({answer.status})",
                hint="push them to this server: git lfs push --all",
            )
        self._check(answer, "its LFS server")
        try:
            rows = {str(row["oid"]): row for row in answer.json()["objects"]}
            return [
                self._action(one, rows[one.oid], answer.url)
                for one in pointers
                if not (is_lenient and rows[one.oid].get("error"))
            ]
        except (KeyError, TypeError, ValueError, AttributeError, UriInvalid):
            raise OriginError(
                f"the LFS server of {shown(self.base)} gives no answer that can be understood"
            ) from None

    def _action(
        self, pointer: Pointer, row: dict[str, Any], asked: str
    ) -> tuple[SignedUrl, list[float]]:
        if row.get("error"):
            raise self._missing(pointer, row["error"])
        action = row["actions"]["download"]
        href = urljoin(asked, str(action["href"]))
        if split_url(href).scheme == "http" and self.base.startswith("https:"):
            raise ValueError("out of TLS")
        headers = tuple(
            (_checked(name, _HEADER_NAME), _checked(value, _HEADER_VALUE))
            for name, value in (action.get("header") or {}).items()
            if name.lower() not in FORBIDDEN_HEADERS
        )
        ends = []
        if action.get("expires_in"):
            ends = [time.time() + float(action["expires_in"])]
        elif action.get("expires_at"):
            ends = [datetime.fromisoformat(str(action["expires_at"])).timestamp()]
        return SignedUrl(planned=self.lfs_url(pointer.oid), url=href, headers=headers), ends

    def _missing(self, pointer: Pointer, error: dict[str, Any]) -> CachdError:
        code = int(error.get("code") or 0)
        what = f"the LFS object {pointer.oid[:12]}"
        if code == 403:
            return AccessError(
                f"access denied: {what} is not for {self._who} ({code})",
                hint="may this user, or token, read the repository's LFS objects?",
            )
        if code in (429, 503):
            return OriginBusy(f"the LFS server is busy ({code})", hint="ask again in a while")
        return NotFound(
            f"{what} isn't at the LFS server of {shown(self.base)} ({code})",
            hint="was it pushed? git lfs push --all",
        )

    async def _post(self, body: str, most: int) -> bytes:
        url = f"{self.base}/git-upload-pack"
        answer = await self._call("POST", url, PACK_HEADERS, body.encode(), most)
        self._check(answer)
        return answer.body

    async def _call(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[str, str]],
        data: bytes | None,
        most: int,
    ) -> HttpAnswer:
        sent = {**self.headers, **dict(headers)}
        return await self._client.call(method, url, headers=sent, data=data, most=most)

    def _check(self, answer: HttpAnswer, what: str = "") -> None:
        """Raises what the status means; the words for a missing repository are careful, for hosts
        say 404 of what one may not see, or 401 of what isn't there."""
        status, where = answer.status, shown(self.base)
        if status < 300:
            return
        whom = f"{what} at {where}" if what else where
        if status == 401 and self.headers.get("Authorization"):
            raise CredentialsInvalid(
                f"authentication failed: {whom} answered 401 to {self._who}",
                hint="check the user and the password or token; many hosts take tokens only",
            )
        if status == 401:
            raise CredentialsMissing(
                f"authentication is needed: {whom} answered 401; the repository is private, or not "
                "found",
                hint="set GIT_USERNAME and GIT_PASSWORD, or check the URL",
            )
        if status == 403:
            raise AccessError(
                f"access denied: {whom} answered 403 to {self._who}",
                hint="may this user, or token, read the repository?",
            )
        if status in (404, 410):
            raise NotFound(
                f"{where} was not found ({status})",
                hint="check the URL; of a private repository some hosts say the same",
            )
        if status in (429, 503):
            raise OriginBusy(
                f"{whom} is busy ({status})",
                retry_after=answer.retry_after,
                hint="ask again in a while",
            )
        raise OriginError(
            f"{whom} answered {status}", status=status, hint="the server's log says more"
        )


def _checked(text: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError("no header")
    return text


def _refs(body: bytes) -> list[Ref]:
    found = []
    for line in lines_of(body):
        if line is None:
            continue
        if line.startswith(b"ERR "):
            raise refusal(line[4:])
        name, _, rest = line.partition(b" ")
        full, *attributes = rest.split(b" ")
        peeled = [a.removeprefix(b"peeled:") for a in attributes if a.startswith(b"peeled:")]
        commit = (peeled or [name])[0].decode("ascii", "replace")
        if re.fullmatch(r"[0-9a-f]{40}", commit):
            found.append(Ref(full.decode("utf-8", "replace"), commit))
    return found
