"""Azure Files' REST API as far as reading goes, and Microsoft's token server: pages, ETags,
signatures. Azurite has no files. Written from Azure's public reference;
``tests/sources/test_azure_peers.py`` has Microsoft's own client check it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers.loopback import Handler, Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

ACCOUNT = "models"
KEY = base64.b64encode(b"the key of the account's files, 64 bytes".ljust(64, b".")).decode()


def etag_of(body: bytes) -> str:
    return f'"0x{hashlib.sha256(body).hexdigest()[:15].upper()}"'


class FakeFiles:
    """``shares``: path → body. ``page``: most entries of one answer. Directories are those that
    files lie in; ``listed``: by share, names that its root lists for files, whatever they are.
    ``has_md5``: whether uploaders gave one. ``refusals`` are (status, code) for the next calls.
    Who shows no good signature and no token of ``tokens`` is refused."""

    name = "azurefiles"

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.shares: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str] = set()
        self.forms: list[dict[str, str]] = []
        self.refusals: list[tuple[int, str]] = []
        self.seen: list[tuple[str, str, dict[str, str], dict[str, str]]] = []
        self.page = 5000
        self.listed: dict[str, list[str]] = {}
        self.has_md5 = False
        files = self

        class FilesHandler(Handler):
            def do_GET(self) -> None:
                files._answer(self)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                files._give_token(self, self.read_body())

        self._server = Server(FilesHandler, tls)
        self.endpoint = self._server.url
        self.tls_endpoint = ""
        self.access_key, self.secret_key = ACCOUNT, KEY

    def stop(self) -> None:
        self._server.stop()

    def make_bucket(self, objects: Mapping[str, bytes], bucket: str = "") -> str:
        share = bucket or f"s-{secrets.token_hex(4)}"
        self.shares.setdefault(share, {}).update(objects)
        return share

    # --- answers -----------------------------------------------------------------------------

    def _answer(self, handler: Handler) -> None:
        parts = urlsplit(handler.path)
        query = {n: v[0] for n, v in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.seen.append((handler.command, parts.path, query, headers))
        account, _, rest = parts.path.lstrip("/").partition("/")
        share, _, path = rest.partition("/")
        path = unquote(path).strip("/")
        if self.refusals:
            status, code = self.refusals.pop(0)
            _refuse(handler, status, code)
        elif account != ACCOUNT or not headers.get("x-ms-version"):
            _refuse(handler, 400, "InvalidUri")
        elif not self._may(share, query, headers):
            _refuse(handler, 403, "AuthenticationFailed")
        elif share not in self.shares:
            _refuse(handler, 404, "ShareNotFound")
        elif query.get("restype") == "directory":
            self._list(handler, share, path, query)
        else:
            self._file(handler, share, path, headers)

    def _may(self, share: str, query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token:
            return token in self.tokens and headers.get("x-ms-file-request-intent") == "backup"
        if "sig" not in query or query.get("sr") != "s":
            return False
        end = time.strptime(query["se"], "%Y-%m-%dT%H:%M:%SZ")
        # "Create a service SAS", version 2015-04-05 and later, Azure Files.
        names = ("si", "sip", "spr", "sv", "rscc", "rscd", "rsce", "rscl", "rsct")
        lines = [query.get("sp", ""), query.get("st", ""), query["se"], f"/file/{ACCOUNT}/{share}"]
        lines += [query.get(name, "") for name in names]
        wanted = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256)
        is_alive = time.strftime("%Y%m%d%H%M%S", end) > time.strftime("%Y%m%d%H%M%S", time.gmtime())
        return is_alive and base64.b64encode(wanted.digest()).decode() == query["sig"]

    def _list(self, handler: Handler, share: str, path: str, query: Mapping[str, str]) -> None:
        below = f"{path}/" if path else ""
        inside = {n[len(below) :]: b for n, b in self.shares[share].items() if n.startswith(below)}
        if path and not inside:
            _refuse(handler, 404, "ResourceNotFound")
            return
        rows = [(*name.partition("/")[:2], body) for name, body in inside.items()]
        if not path:
            rows += [(name, "", b"x") for name in self.listed.get(share, ())]
        entries: dict[str, str] = {}
        for first, slash, body in rows:
            shown = escape(first)
            if first.isprintable() is False:
                shown = quote(first)
            encoded = ' Encoded="true"' if shown != escape(first) else ""
            if slash:
                entries[f"{first}/"] = (
                    f"<Directory><FileId>1</FileId><Name{encoded}>{shown}</Name><Properties />"
                    "</Directory>"
                )
            else:
                etag = f"<Etag>{escape(etag_of(body))}</Etag>" if "ETag" in str(query) else ""
                entries[first] = (
                    f"<File><FileId>2</FileId><Name{encoded}>{shown}</Name><Properties>"
                    f"<Content-Length>{len(body)}</Content-Length>{etag}</Properties></File>"
                )
        names = sorted(entries)
        begin = int(query.get("marker") or 0)
        end = begin + min(int(query.get("maxresults") or 5000), self.page)
        text = "".join(entries[name] for name in names[begin:end])
        marker = str(end) if end < len(names) else ""
        body = (
            f'\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults '
            f'ServiceEndpoint="{self.endpoint}" ShareName="{share}" DirectoryPath="{escape(path)}">'
            f"<Entries>{text}</Entries><NextMarker>{marker}</NextMarker></EnumerationResults>"
        )
        handler.send(200, body.encode(), Content_Type="application/xml")

    def _file(self, handler: Handler, share: str, path: str, headers: Mapping[str, str]) -> None:
        body = self.shares[share].get(path)
        if body is None:
            _refuse(handler, 404, "ResourceNotFound")
            return
        if "if-match" in headers or "if-unmodified-since" in headers:
            _refuse(handler, 400, "ConditionHeadersNotSupported")
            return
        told = {
            "ETag": etag_of(body),
            "Last_Modified": "Wed, 01 Jan 2025 00:00:00 GMT",
            "X_Ms_Type": "File",
            "X_Ms_Version": headers["x-ms-version"],
            "Content_Type": "application/octet-stream",
            "Accept_Ranges": "bytes",
            "X_Ms_Server_Encrypted": "true",
        }
        if self.has_md5:
            told["Content_MD5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
        span = headers.get("x-ms-range") or headers.get("range", "")
        if not span or handler.command == "HEAD":
            handler.send(200, body, **told)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last or len(body)) + 1]
        if not part:
            _refuse(handler, 416, "InvalidRange")
            return
        if self.has_md5:  # Content-MD5 of an answer is that of its body
            told["X_Ms_Content_MD5"] = told.pop("Content_MD5")
        told["Content_Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
        handler.send(206, part, **told)

    def _give_token(self, handler: Handler, body: bytes) -> None:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.forms.append({"path": handler.path, **form})
        proof = form.get("client_secret") or form.get("client_assertion")
        if proof not in ("app-secret-27182", "federated-31415"):
            handler.send(401, b'{"error": "invalid_client"}', Content_Type="application/json")
            return
        token = f"eyJ.{secrets.token_hex(12)}"
        self.tokens.add(token)
        found = {"token_type": "Bearer", "expires_in": 3599, "access_token": token}
        handler.send(200, json.dumps(found).encode(), Content_Type="application/json")


def _refuse(handler: Handler, status: int, code: str) -> None:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>told</Message></Error>'
    more = {"Retry_After": "7"} if status in (429, 503) else {}
    handler.send(
        status, body.encode(), X_Ms_Error_Code=code, Content_Type="application/xml", **more
    )
