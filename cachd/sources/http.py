"""``http://`` and ``https://``: one file, or one archive that is unpacked."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cachd.errors import OriginError
from cachd.metadata import tidy
from cachd.model import Auth, Plan, PlannedFile, Validator
from cachd.names import check_name
from cachd.sources.base import Location
from cachd.sources.http_rules import (
    authority,
    canonical_url,
    check_content_type,
    file_name,
    join_secret,
    kind_of,
    origin_of,
    sha256_of,
    split_secret,
)
from cachd.sources.revisions import hash_state
from cachd.sources.trust import connect_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.model import Connect, Digest
    from cachd.settings import SourcesSettings
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.http_client import HttpAnswer, HttpClient

_DIGITS = 19
"""Of a number of bytes: what 63 bits hold."""
_NO_ANSWER_TO_HEAD = {400, 403, 405, 406, 500, 501, 502}


class HttpSource:
    """The ``Source`` of web servers.

    A URI's query is part of what it means and stays in the canonical URI, but for signatures: they
    are the caller's credentials, so that a URL signed anew is the same model. Patterns don't apply:
    the URI names one exact file.
    """

    schemes = ("http", "https")

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Raises UriInvalid: no host, user information, no file name."""
        url, secret = split_secret(canonical_url(uri))
        file_name(url)
        return Location(
            scheme=urlsplit(url).scheme,
            uri=url,
            origin=origin_of(url),
            is_default_origin=True,
            options=options.without_s3(),
            secret_query=secret,
        )

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """One or two requests: HEAD, or a GET of the first byte where HEAD doesn't tell enough.

        Where redirects lead is often signed, for minutes and for this caller. So the plan has the
        caller's own URL, and whoever fetches follows it anew, with a pass that can be renewed.
        """
        uri = request.location.uri
        name = file_name(uri)
        check_name(name)
        connect = await _connect(request, context)
        async with _client(request, context, connect) as client:
            answer, ranges, size = await _look(client, _url(request))
        kind = kind_of(uri)
        check_content_type(
            uri,
            kind,
            answer.headers.get("Content-Type", ""),
            strict=context.settings.http.check_content_type,
        )
        validator = Validator(
            etag=answer.headers.get("ETag"), last_modified=answer.headers.get("Last-Modified")
        )
        return Plan(
            revision=_revision(uri, validator, size),
            files=(
                PlannedFile(
                    path=name,
                    url=answer.url if answer.needs_final else _url(request),
                    size=size,
                    validator=validator,
                    digest=_digest(answer) if not kind else None,
                    ranges=ranges,
                ),
            ),
            auth=_auth(answer, _url(request)),
            connect=connect,
            unpack=kind,
            is_validated=validator.is_usable,
            is_read_proven=True,
            is_credentialed=answer.was_credentialed or bool(request.used_credentials.query),
            metadata=tidy({"created": _moment(validator.last_modified)}),
        )

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """The same look at the file, with the caller's headers."""
        connect = await _connect(request, context)
        async with _client(request, context, connect) as client:
            await _look(client, _url(request))

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """The caller's headers for the host of the URL that a plan would have now."""
        connect = await _connect(request, context)
        async with _client(request, context, connect) as client:
            answer, _, _ = await _look(client, _url(request))
        return _auth(answer, _url(request))


def _url(request: SourceRequest) -> str:
    """The URL to call: at the mirror, with the caller's signature, where there is one."""
    uri = request.location.uri
    if request.location.mirror:
        uri = request.location.mirror + uri.removeprefix(origin_of(uri))
    return join_secret(uri, request.used_credentials.query)


async def _connect(request: SourceRequest, context: SourceContext) -> Connect:
    return await connect_of(request.location.options, ca_bundle=context.settings.http.ca_bundle)


def _client(request: SourceRequest, context: SourceContext, connect: Connect) -> HttpClient:
    from cachd.sources.http_client import client_for  # noqa: PLC0415  (heavy)

    return client_for(request, context, connect, request.used_credentials, keep_alive=False)


async def _look(client: HttpClient, url: str) -> tuple[HttpAnswer, bool, int | None]:
    """The final answer's head, whether ranges work, and the size if it is known."""
    from cachd.sources.http_client import check_status  # noqa: PLC0415

    try:
        answer = await client.head("HEAD", url)
    except OriginError as error:
        # Some servers send a body after HEAD. Anything more definite is final.
        if type(error) is not OriginError:
            raise
        answer = None
    if answer is not None and answer.status not in _NO_ANSWER_TO_HEAD:
        check_status(answer)
        size = _number(answer.headers.get("Content-Length"))
        if size is not None and answer.headers.get("Accept-Ranges", "").lower() == "bytes":
            return answer, _is_plain(answer), size
    first = await client.head("GET", url, Range="bytes=0-0")
    if first.status == 416:
        # An empty file has no first byte; what HEAD said of it is better than an error's head.
        if answer is not None and answer.status < 300:
            return answer, False, 0
        return first, False, 0
    check_status(first)
    if first.status == 206:
        return first, _is_plain(first), _total(first.headers.get("Content-Range"))
    return first, False, _number(first.headers.get("Content-Length"))


def _digest(answer: HttpAnswer) -> Digest | None:
    return sha256_of(answer.headers.get("Repr-Digest")) if _is_plain(answer) else None


def _is_plain(answer: HttpAnswer) -> bool:
    """Ranges of an encoded body are of no use."""
    return answer.headers.get("Content-Encoding", "identity").lower() == "identity"


def _number(text: str | None) -> int | None:
    is_number = text is not None and text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if text is not None and is_number else None


def _total(content_range: str | None) -> int | None:
    return _number((content_range or "").rpartition("/")[2])


def _moment(last_modified: str | None) -> str:
    """A Last-Modified header as RFC 3339, "" where it is none."""
    try:
        return parsedate_to_datetime(last_modified or "").astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return ""


def _revision(uri: str, validator: Validator, size: int | None) -> str:
    moment = None if validator.strong_etag else validator.last_modified
    return hash_state([uri, validator.etag, moment, size])


def _auth(answer: HttpAnswer, asked: str) -> Auth:
    url, headers = (
        (answer.url, answer.sent_headers) if answer.needs_final else (asked, answer.first_headers)
    )
    if not headers:
        return Auth()
    return Auth(kind="headers", headers=headers, host=authority(urlsplit(url)))
