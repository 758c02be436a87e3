"""One call's means at Azure Storage, and what blobs and files have in common."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from cachd.errors import OriginError
from cachd.model import Digest, Plan
from cachd.names import check_tree
from cachd.sources import azure_xml
from cachd.sources.archives import unpack_of
from cachd.sources.azure_errors import check, code_of
from cachd.sources.azure_identity import VERSION
from cachd.sources.census import parse_size
from cachd.sources.prefixes import no_model
from cachd.sources.revisions import revision_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cachd.model import Connect, PlannedFile
    from cachd.sources.azure_identity import Pass
    from cachd.sources.azure_location import AzureAddress
    from cachd.sources.http_client import HttpAnswer, HttpClient

HEADERS = (("x-ms-version", VERSION),)
_ABSENT = {"BlobNotFound", "ResourceNotFound", "ParentNotFound", "ResourceTypeMismatch", ""}
_THREADED = 64 * 1024
"""Bytes of XML from which on a thread reads it."""


@dataclass(frozen=True, kw_only=True)
class AzureClient:
    """Where, as whom, by what."""

    http: HttpClient
    base: str
    address: AzureAddress
    identity: Pass
    connect: Connect

    async def look(self, url: str) -> HttpAnswer | None:
        """HEAD; None if nothing is there. Raises what any other status means."""
        answer = await self._call("HEAD", url)
        if answer.status == 404 and code_of(answer) in _ABSENT:
            return None
        check(answer, self.base, self.address, self.identity)
        return answer

    async def page(self, url: str, query: Mapping[str, str]) -> azure_xml.Page:
        """One page of a listing. Raises what a status means, and OriginError for what is none."""
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        answer = await self._call("GET", f"{url}?{text}")
        check(answer, self.base, self.address, self.identity)
        try:
            if len(answer.body) < _THREADED:
                page = azure_xml.parse(answer.body)
            else:
                page = await asyncio.to_thread(azure_xml.parse, answer.body)
        except ValueError:
            raise self.no_listing() from None
        if page.marker and page.marker == query.get("marker"):
            raise OriginError(f"{self.base} lists the same page again and again")
        return page

    async def _call(self, method: str, url: str) -> HttpAnswer:
        query = self.identity.query
        if query:
            url += f"{'&' if '?' in url else '?'}{query}"
        return await self.http.call(method, url, headers=self.identity.own_headers)

    def no_listing(self) -> OriginError:
        return OriginError(
            f"{self.base} does not answer as Azure Storage does",
            hint="is this an endpoint of that service, and its port?",
        )

    def size_of(self, text: str | None) -> int:
        """Raises OriginError for what is no number of bytes."""
        size = parse_size(text)
        if size is None:
            raise self.no_listing()
        return size

    def plan(
        self, files: Sequence[PlannedFile], *, is_filtered: bool, is_immutable: bool = False
    ) -> Plan:
        """Raises NotFound, PathUnsafe."""
        if not files:
            what = "what it holds lies"
            raise no_model(self.address.uri, is_filtered=is_filtered, what=what)
        files = sorted(files, key=lambda f: f.path)
        check_tree(f.path for f in files)
        return Plan(
            revision=revision_of(files),
            files=tuple(files),
            auth=self.identity.auth(self.base),
            connect=self.connect,
            unpack=unpack_of(files),
            is_immutable=is_immutable,
            is_validated=all(f.validator.etag or f.validator.version_id for f in files),
            is_credentialed=self.identity.is_signed,
            metadata={"endpoint": self.base, "bucket": self.address.container},
        )


def quoted(etag: str | None) -> str | None:
    """As answers have it; lists leave the quotes out."""
    if not etag:
        return None
    return etag if etag.startswith(('"', "W/")) else f'"{etag}"'


def md5_of(text: str | None) -> Digest | None:
    try:
        raw = base64.b64decode(text or "", validate=True)
    except ValueError:
        return None
    return Digest(algorithm="md5", value=raw.hex()) if len(raw) == 16 else None
