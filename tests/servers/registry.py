"""Debian's docker-registry (distribution), and a pusher for it: the registry's API by hand, for
artifacts that no tool of Debian's makes."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.servers.certificates import Certificates
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.process import ServerProcess
from tests.servers.require import program

USER, PASSWORD = "puller", "push-and-pull"
_HTPASSWD = f"{USER}:$2y$04$.K.AI2s.HeEvKCkSVCK0u.6rD7vZ6F60P5FPURQgChBciHIhzEgqO\n"
"""bcrypt of that password, at its least cost."""

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"


@dataclass
class Registry:
    """``url`` is https if it has a certificate. ``login``: what a push and a pull take."""

    process: ServerProcess
    url: str
    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def stop(self) -> None:
        self.process.stop()

    def call(
        self, method: str, target: str, body: bytes = b"", **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        more: dict[str, Any] = {"context": self.tls} if self.tls else {}
        connection = kind(self.host, timeout=30, **more)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.login:
            pair = base64.b64encode(":".join(self.login).encode()).decode()
            sent["Authorization"] = f"Basic {pair}"
        try:
            connection.request(method, target, body, {**self.headers, **sent})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def push_blob(self, repository: str, body: bytes) -> str:
        """The digest."""
        digest = digest_of(body)
        if self.call("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
            return digest
        status, headers, _ = self.call("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202, status
        where = urlsplit(headers["Location"])
        status, _, text = self.call(
            "PUT",
            f"{where.path}?{where.query}&digest={digest}",
            body,
            Content_Type="application/octet-stream",
        )
        assert status == 201, text
        return digest

    def push(
        self,
        repository: str,
        tag: str,
        layers: list[tuple[bytes, str, dict[str, str]]],
        *,
        config: bytes = EMPTY,
        config_type: str = EMPTY_TYPE,
        **more: Any,
    ) -> str:
        """A manifest of (body, media type, annotations) each, and its digest."""
        entries = []
        for body, kind, notes in layers:
            entry: dict[str, Any] = {"mediaType": kind, "digest": self.push_blob(repository, body)}
            entry["size"] = len(body)
            entries.append({**entry, "annotations": notes} if notes else entry)
        described = {"mediaType": config_type, "digest": self.push_blob(repository, config)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {**described, "size": len(config)},
            "layers": entries,
            **more,
        }
        return self.push_manifest(repository, tag, manifest)

    def push_manifest(self, repository: str, tag: str, manifest: dict[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        digest = digest_of(body)
        status, _, text = self.call(
            "PUT",
            f"/v2/{repository}/manifests/{tag or digest}",
            body,
            Content_Type=str(manifest["mediaType"]),
        )
        assert status == 201, text
        return digest

    def push_index(
        self, repository: str, tag: str, images: list[tuple[str, dict[str, str] | None]]
    ) -> str:
        """Of manifests that are there already, by (digest, platform)."""
        entries = []
        for digest, platform in images:
            body = self.call("GET", f"/v2/{repository}/manifests/{digest}", Accept=MANIFEST)[2]
            entry: dict[str, Any] = {"mediaType": MANIFEST, "digest": digest, "size": len(body)}
            entries.append({**entry, "platform": platform} if platform else entry)
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return self.push_manifest(repository, tag, index)

    def push_files(self, repository: str, tag: str, files: Mapping[str, bytes]) -> str:
        """As ``oras push`` does: a layer for each file, titled by its name."""
        layers = [(body, LAYER, {TITLE: name}) for name, body in files.items()]
        return self.push(repository, tag, layers or [(EMPTY, EMPTY_TYPE, {})])

    def push_image(self, repository: str, tag: str, *layers: bytes, kind: str = LAYER) -> str:
        """As image builders do, compressed or not: what a layer is says its own beginning."""
        return self.push(
            repository,
            tag,
            [(body, kind, {}) for body in layers],
            config=b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}',
            config_type=CONFIG,
        )


def digest_of(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def start_registry(
    folder: Path,
    certificates: Certificates | None = None,
    *,
    auth: str = "",
    tokens: Mapping[str, Any] | None = None,
) -> Registry:
    """``auth``: "" none, "htpasswd". ``tokens``: the configuration of a token service."""
    server = program("docker-registry", "docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    http_part: dict[str, Any] = {"addr": f"{LOOPBACK}:{port}", "secret": "of-the-tests"}
    tls = None
    if certificates is not None:
        http_part["tls"] = {"certificate": str(certificates.chain), "key": str(certificates.key)}
        tls = ssl.create_default_context(cafile=str(certificates.ca))
    configuration: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "blobs")},
            "delete": {"enabled": True},
        },
        "http": http_part,
    }
    if auth == "htpasswd":
        (folder / "htpasswd").write_text(_HTPASSWD)
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    if tokens is not None:
        configuration["auth"] = dict(tokens)
    place = folder / "config.json"
    # JSON is YAML.
    place.write_text(json.dumps(configuration))
    process = ServerProcess([server, "serve", str(place)], folder)
    registry = Registry(
        process=process,
        url=f"{'https' if tls else 'http'}://{LOOPBACK}:{port}",
        tls=tls,
        login=(USER, PASSWORD) if auth else None,
    )
    try:
        process.wait_for_http(port, "/")
    except BaseException:
        process.stop()
        raise
    return registry
