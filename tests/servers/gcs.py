"""Cloud Storage's JSON API as far as reading goes, and Google's token server: generations,
preconditions, pages, decompressive transcoding, refusals. Written from Google's public reference;
``tests/sources/test_google_peers.py`` has Google's own client check it."""

from __future__ import annotations

import base64
import bisect
import gzip
import hashlib
import itertools
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from awscrt.checksums import crc32c
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers.loopback import Handler, Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

EMAIL = "reader@project.iam.gserviceaccount.com"
SCOPES = {
    "https://www.googleapis.com/auth/devstorage.read_only",
    "https://www.googleapis.com/auth/devstorage.full_control",
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/cloud-platform",
}
PUBLIC_BUCKET = "public-models"
REFRESH_TOKEN = "refresh-31415"
_generations = itertools.count(1_700_000_000_000_001)


@dataclass
class Stored:
    """One generation of an object."""

    body: bytes
    encoding: str = ""
    cache_control: str = ""
    is_composite: bool = False
    generation: int = field(default_factory=lambda: next(_generations))

    def describe(self, bucket: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{self.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "size": str(len(self.body)),
            "crc32c": self.crc32c,
            "etag": f"C{self.generation}=",
        }
        if not self.is_composite:
            found["md5Hash"] = self.md5
        if self.encoding:
            found["contentEncoding"] = self.encoding
        if self.cache_control:
            found["cacheControl"] = self.cache_control
        return found

    @property
    def crc32c(self) -> str:
        return base64.b64encode(crc32c(self.body).to_bytes(4, "big")).decode()

    @property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.body, usedforsecurity=False).digest()).decode()


class FakeGcs:
    """``private`` buckets want a token of this server's, and answer 403 to those in ``strangers``.
    ``refusals`` are (status, reason) for the next calls of the API; ``page`` is the most objects of
    a page. ``is_versioned``: what is replaced is kept, as a generation that isn't live."""

    name = "gcs"

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        self._order: dict[str, list[str]] = {}
        self.versions: dict[tuple[str, str, int], Stored] = {}
        self.private: set[str] = set()
        self.strangers: set[str] = set()
        self.tokens: dict[str, float] = {}
        self.refusals: list[tuple[int, str]] = []
        self.is_versioned = False
        self.page = 1000
        self.token_life = 3600
        self.seen: list[tuple[str, str, dict[str, str], dict[str, str]]] = []
        self.exchanges: list[dict[str, str]] = []
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        gcs = self

        class GcsHandler(Handler):
            def do_GET(self) -> None:
                gcs._get(self)

            def do_POST(self) -> None:
                gcs._post(self, self.read_body())

        self._server = Server(GcsHandler, tls)
        self.endpoint = self._server.url
        self.tls_endpoint = ""
        self.access_key = self.secret_key = ""

    def stop(self) -> None:
        self._server.stop()

    def authorizations(self) -> set[str]:
        """With which ones it was asked."""
        return {headers.get("authorization", "") for _, _, _, headers in self.seen}

    # --- what tests put there ----------------------------------------------------------------

    def make_bucket(self, objects: Mapping[str, bytes], bucket: str = "") -> str:
        bucket = bucket or f"bucket-{secrets.token_hex(4)}"
        self.buckets.setdefault(bucket, {})
        for name, body in objects.items():
            self.put(bucket, name, Stored(body))
        return bucket

    def put(self, bucket: str, name: str, stored: Stored) -> Stored:
        if not self.is_versioned:
            self.delete(bucket, name)
        self.buckets.setdefault(bucket, {})[name] = stored
        self._order.pop(bucket, None)
        self.versions[bucket, name, stored.generation] = stored
        return stored

    def delete(self, bucket: str, name: str) -> None:
        old = self.buckets.get(bucket, {}).pop(name, None)
        self._order.pop(bucket, None)
        if old is not None and not self.is_versioned:
            del self.versions[bucket, name, old.generation]

    def issue(self) -> str:
        token = f"ya29.{secrets.token_hex(12)}"
        self.tokens[token] = time.time() + self.token_life
        return token

    def service_account(self, **changes: Any) -> str:
        """The text of a key file."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        key = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "key-1",
            "private_key": pem,
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": f"{self.endpoint}/token",
        }
        return json.dumps({**key, **changes})

    def authorized_user(self) -> str:
        return json.dumps(
            {
                "type": "authorized_user",
                "client_id": "app",
                "client_secret": "app-secret",
                "refresh_token": REFRESH_TOKEN,
                "quota_project_id": "payer",
                "token_uri": f"{self.endpoint}/token",
            }
        )

    # --- answers -----------------------------------------------------------------------------

    def _get(self, handler: Handler) -> None:
        parts = urlsplit(handler.path)
        query = {n: v[0] for n, v in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.seen.append((handler.command, parts.path, query, headers))
        if parts.path.startswith("/computeMetadata/"):
            self._metadata(handler, headers)
            return
        is_download = parts.path.startswith("/download/")
        rest = parts.path.removeprefix("/download").removeprefix("/storage/v1/b/")
        bucket, _, rest = rest.partition("/")
        if not rest or rest.partition("/")[0] != "o":
            _refuse(handler, 404, "notFound")
            return
        name = unquote(rest.partition("/")[2])
        is_media = is_download or query.get("alt") == "media"
        if self.refusals:
            status, reason = self.refusals.pop(0)
            _refuse(handler, status, reason)
        elif unquote(bucket) not in self.buckets:
            _refuse(handler, 404, "notFound")
        elif self._may(handler, unquote(bucket), headers):
            if name:
                self._object(handler, unquote(bucket), name, query, is_media=is_media)
            else:
                self._list(handler, unquote(bucket), query)

    def _may(self, handler: Handler, bucket: str, headers: Mapping[str, str]) -> bool:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token and self.tokens.get(token, 0.0) < time.time():
            _refuse(handler, 401, "authError")
        elif token in self.strangers:
            _refuse(handler, 403, "forbidden")
        elif bucket in self.private and not token:
            _refuse(handler, 401, "required")
        else:
            return True
        return False

    def _list(self, handler: Handler, bucket: str, query: Mapping[str, str]) -> None:
        after, prefix = query.get("pageToken", ""), query.get("prefix", "")
        if bucket not in self._order:
            self._order[bucket] = sorted(self.buckets[bucket], key=str.encode)
        order = self._order[bucket]
        begin = bisect.bisect_left(order, prefix.encode(), key=str.encode)
        if after:
            begin = bisect.bisect_right(order, bytes.fromhex(after), key=str.encode)
        limit = begin + min(int(query.get("maxResults", "1000")), self.page)
        names = list(itertools.takewhile(lambda n: n.startswith(prefix), order[begin : limit + 1]))
        most = limit - begin
        page: dict[str, Any] = {"kind": "storage#objects"}
        if names:
            page["items"] = [
                self.buckets[bucket][name].describe(bucket, name) for name in names[:most]
            ]
        if len(names) > most:
            page["nextPageToken"] = names[most - 1].encode().hex()
        _send_json(handler, page)

    def _object(
        self,
        handler: Handler,
        bucket: str,
        name: str,
        query: Mapping[str, str],
        *,
        is_media: bool,
    ) -> None:
        stored = self.buckets[bucket].get(name)
        if "generation" in query:
            stored = self.versions.get((bucket, name, int(query["generation"])))
        if stored is None:
            _refuse(handler, 404, "notFound")
        elif query.get("ifGenerationMatch", str(stored.generation)) != str(stored.generation):
            _refuse(handler, 412, "conditionNotMet")
        elif is_media:
            self._media(handler, stored)
        else:
            _send_json(handler, stored.describe(bucket, name))

    @staticmethod
    def _media(handler: Handler, stored: Stored) -> None:
        checks = f"crc32c={stored.crc32c}"
        if not stored.is_composite:
            checks += f",md5={stored.md5}"
        headers = {
            "ETag": f"C{stored.generation}=",
            "X_Goog_Generation": str(stored.generation),
            "X_Goog_Hash": checks,
            "X_Goog_Stored_Content_Encoding": stored.encoding or "identity",
            "Content_Type": "application/octet-stream",
        }
        wants_packed = "gzip" in handler.headers.get("Accept-Encoding", "")
        if stored.encoding == "gzip" and not wants_packed:
            _send_chunked(handler, gzip.decompress(stored.body), headers)
            return
        if stored.encoding:
            headers["Content_Encoding"] = stored.encoding
        span = handler.headers.get("Range", "").removeprefix("bytes=")
        if not span:
            handler.send(200, stored.body, **headers)
            return
        first, _, last = span.partition("-")
        part = stored.body[int(first) : int(last or len(stored.body)) + 1]
        if not part:
            handler.send(416, Content_Range=f"bytes */{len(stored.body)}")
            return
        end = int(first) + len(part) - 1
        headers["Content_Range"] = f"bytes {first}-{end}/{len(stored.body)}"
        handler.send(206, part, **headers)

    def _metadata(self, handler: Handler, headers: Mapping[str, str]) -> None:
        if headers.get("metadata-flavor") != "Google":
            handler.send(403)
        else:
            token = {"access_token": self.issue(), "expires_in": 3599, "token_type": "Bearer"}
            _send_json(handler, token)

    # --- tokens and uploads ------------------------------------------------------------------

    def _post(self, handler: Handler, body: bytes) -> None:
        parts = urlsplit(handler.path)
        if parts.path == "/token":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            self.exchanges.append(form)
            self._exchange(handler, form)
            return
        # "Upload an object with a multipart request": metadata, then the bytes.
        bucket = unquote(parts.path.removeprefix("/upload/storage/v1/b/").partition("/")[0])
        content_type = handler.headers.get("Content-Type", "")
        mark = b"--" + content_type.partition("boundary=")[2].strip("\"'").encode()
        about, data = (part.partition(b"\r\n\r\n")[2] for part in body.split(mark)[1:3])
        name = json.loads(about)["name"]
        stored = self.put(bucket, name, Stored(data[:-2]))
        _send_json(handler, stored.describe(bucket, name))

    def _exchange(self, handler: Handler, form: Mapping[str, str]) -> None:
        if form["grant_type"] == "refresh_token":
            is_good = (form["client_secret"], form["refresh_token"]) == (
                "app-secret",
                REFRESH_TOKEN,
            )
        else:
            is_good = self._is_signed(form.get("assertion", ""))
        if not is_good:
            handler.send(400, b'{"error": "invalid_grant", "error_description": "no"}')
            return
        token = {
            "access_token": self.issue(),
            "expires_in": self.token_life,
            "token_type": "Bearer",
        }
        _send_json(handler, token)

    def _is_signed(self, assertion: str) -> bool:
        signed, _, signature = assertion.rpartition(".")
        head, _, claims = signed.partition(".")
        try:
            self._key.public_key().verify(
                _decode(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            said = json.loads(_decode(claims))
            header = json.loads(_decode(head))
        except (InvalidSignature, ValueError):
            return False
        now = time.time()
        return (
            header["alg"] == "RS256"
            and said["iss"] == EMAIL
            # Go's client names the key's token_uri, Python's always Google's own.
            and said["aud"] in (f"{self.endpoint}/token", "https://oauth2.googleapis.com/token")
            and bool(SCOPES & set(said["scope"].split()))
            and said["iat"] - 60 <= now < said["exp"] <= said["iat"] + 3600
        )


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _send_json(handler: Handler, found: Mapping[str, Any]) -> None:
    handler.send(200, json.dumps(found).encode(), Content_Type="application/json; charset=UTF-8")


def _send_chunked(handler: Handler, body: bytes, headers: Mapping[str, str]) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Warning", "214 UploadServer gunzipped")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")


def _refuse(handler: Handler, status: int, reason: str) -> None:
    body = {
        "error": {
            "code": status,
            "message": "told to a person",
            "errors": [{"message": "told", "domain": "global", "reason": reason}],
        }
    }
    more = {"Retry_After": "7"} if status in (429, 503) else {}
    handler.send(
        status, json.dumps(body).encode(), Content_Type="application/json; charset=UTF-8", **more
    )
