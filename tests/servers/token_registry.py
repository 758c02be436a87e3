"""A registry that wants tokens, in threads, for what docker-registry can't be made to do: tokens
that end after ``uses`` blobs, refresh tokens, wrong digests, storage elsewhere. Written from the
distribution's specifications ("Token authentication specification", "OAuth2 token authentication").
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.servers.loopback import Handler, Server
from tests.servers.registry import MANIFEST, TITLE


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    authorization: str
    form: dict[str, str] = field(default_factory=dict)


@dataclass
class TokenRegistry:
    """``login``: who gets tokens; None: anybody. ``refresh``: a refresh token that does, too.
    ``storage``: where blobs are redirected to, their digest behind it."""

    login: tuple[str, str] | None = None
    refresh: str = ""
    realm: str = ""
    uses: int = 1 << 30
    storage: str = ""
    wrong_digest: str = ""
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    url: str = ""
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def put_files(self, repository: str, tag: str, files: dict[str, bytes]) -> str:
        layers = []
        for name, body in files.items():
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            self.blobs[digest] = body
            layers.append(
                {
                    "mediaType": "application/octet-stream",
                    "digest": digest,
                    "size": len(body),
                    "annotations": {TITLE: name},
                }
            )
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        return self.put_manifest(repository, tag, json.dumps(manifest).encode())

    def put_manifest(self, repository: str, tag: str, body: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        for name in (tag, digest):
            self.manifests[f"{repository}/manifests/{name}"] = (body, digest)
        return digest

    def tokens(self) -> list[Asked]:
        return [each for each in self.asked if each.path == "/token"]

    def blob_requests(self) -> list[Asked]:
        return [each for each in self.asked if "/blobs/" in each.path]

    def give_token(self, asked: Asked) -> str:
        """A new one; "" for a caller that gets none."""
        basic = asked.authorization.removeprefix("Basic ")
        pair = tuple(base64.b64decode(basic).decode().split(":", 1)) if basic else None
        has_refresh = bool(self.refresh) and asked.form.get("refresh_token") == self.refresh
        if self.login is not None and pair != self.login and not has_refresh:
            return ""
        with self._lock:
            token = f"token-{next(self._numbers)}-of-the-tests"
            self.left[token] = self.uses
        return token

    def is_allowed(self, asked: Asked) -> bool:
        token = asked.authorization.removeprefix("Bearer ")
        with self._lock:
            if self.left.get(token, 0) <= 0:
                return False
            if "/blobs/" in asked.path:
                self.left[token] -= 1
            return True


class _Handler(Handler):
    registry: TokenRegistry

    def do_GET(self) -> None:
        registry, parts = self.registry, urlsplit(self.path)
        body = self.read_body().decode()
        asked = Asked(
            method=self.command,
            path=parts.path,
            query={name: values[0] for name, values in parse_qs(parts.query).items()},
            authorization=self.headers.get("Authorization", ""),
            form={name: values[0] for name, values in parse_qs(body).items()},
        )
        registry.asked.append(asked)
        if parts.path == "/token":
            token = registry.give_token(asked)
            told = {"token": token, "expires_in": 300} if token else {"details": "no"}
            self.send(200 if token else 401, json.dumps(told).encode())
        elif not registry.is_allowed(asked):
            name = (
                parts.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
            )
            realm = registry.realm or f"{registry.url}/token"
            self.send(
                401,
                b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}',
                **{
                    "WWW-Authenticate": f'Bearer realm="{realm}",service="the tests",'
                    f'scope="repository:{name}:pull"'
                },
            )
        elif "/manifests/" in parts.path:
            found = registry.manifests.get(parts.path.removeprefix("/v2/"))
            if found is None:
                self.send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
                return
            digest = registry.wrong_digest or found[1]
            more = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest}
            self.send(200, found[0], **more)
        else:
            self._blob(parts.path.rpartition("/")[2])

    do_POST = do_GET

    def _blob(self, digest: str) -> None:
        if self.registry.storage:
            where = self.registry.storage + digest.partition(":")[2]
            self.send(307, b"", Location=where)
            return
        body = self.registry.blobs[digest]
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            self.send(200, body)
            return
        first, _, last = wanted.partition("-")
        start, end = int(first), min(int(last or len(body)), len(body) - 1)
        told = f"bytes {start}-{end}/{len(body)}"
        self.send(206, body[start : end + 1], **{"Content-Range": told})


@contextmanager
def token_registry(**fields: object) -> Iterator[TokenRegistry]:
    registry = TokenRegistry(**fields)  # type: ignore[arg-type]
    with Server(type("Bound", (_Handler,), {"registry": registry})) as server:
        registry.url = server.url
        yield registry
