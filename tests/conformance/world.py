"""Everything that the rows share: servers, authorities, one daemon, and ``cachd pull``."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Protocol

import trustme

from tests.conformance.objects import Objects
from tests.conformance.web import Web
from tests.harness import Daemon, running
from tests.servers.hub import Hub
from tests.servers.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.servers.certificates import Certificates
    from tests.servers.nginx import Nginx

NO_SUCH_NAMES = (
    "s3.amazonaws.com",
    "*.s3.amazonaws.com",
    "*.s3.eu-west-1.amazonaws.com",
    "*.s3-accelerate.amazonaws.com",
)


class Store(Protocol):
    """A server that has objects in buckets."""

    @property
    def name(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def tls_endpoint(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    def make_bucket(self, objects: Mapping[str, bytes], bucket: str = "") -> str: ...


@dataclass
class Authorities:
    """``public`` is one that the daemon's machine trusts; ``custom`` one that it doesn't know,
    which vouches for the session's servers; ``stranger`` vouches for nobody."""

    folder: Path
    custom: Certificates
    _public: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.public_pem = self.folder / "public.pem"
        self._public.cert_pem.write_to_path(self.public_pem)
        self.stranger_pem = self.folder / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(self.stranger_pem)

    def bundle(self, name: str, pem: str) -> Path:
        """A mounted ConfigMap: a directory holding ``cabundle.crt``."""
        place = self.folder / name
        place.mkdir()
        (place / "cabundle.crt").write_text(pem)
        return place

    def server_context(self, *names: str) -> ssl.SSLContext:
        """For a server that ``public`` vouches for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._public.issue_cert(LOOPBACK, *names).configure_cert(context)
        return context


@dataclass
class World:
    folder: Path
    authorities: Authorities
    web: Web
    public_web: Web
    objects: Objects
    nginx: Nginx
    makes: Mapping[str, Store]
    daemon: Daemon
    deaf_port: int
    hub: Hub
    shared: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    more: dict[str, str] = field(default_factory=dict)

    def put(self, make: str, objects: Mapping[str, bytes], *, own_bucket: bool) -> str:
        """Objects on a real server, where no other row has any; what to write for ``bucket``.

        SeaweedFS takes a second to make a bucket, so most rows share one, each below a prefix.
        """
        server = self.makes[make]
        if own_bucket:
            return server.make_bucket(objects)
        place = f"row-{next(self.numbers)}"
        below = {f"{place}/{key}": body for key, body in objects.items()}
        self.shared[make] = server.make_bucket(below, self.shared.get(make, ""))
        return f"{self.shared[make]}/{place}"

    def names(self, make: str = "") -> dict[str, str]:
        """What a row's ``$name`` stands for."""
        names = {
            "web": self.web.url,
            "webport": str(self.web.port),
            "public_web": self.public_web.url,
            "nginx": self.nginx.plain_url,
            "nginx_tls": self.nginx.tls_url,
            "elsewhere": self.public_web.url.replace(LOOPBACK, "localhost"),
            "objects": self.objects.url,
            "objects_host": self.objects.url.removeprefix("http://"),
            "hub": self.hub.url,
            "deaf": f"http://{LOOPBACK}:{self.deaf_port}",
            "folder": str(self.folder),
            "certificates": str(self.authorities.folder),
            "custom_pem": str(self.authorities.custom.ca),
            "public_pem": str(self.authorities.public_pem),
            "stranger_pem": str(self.authorities.stranger_pem),
            **self.more,
        }
        if make:
            server = self.makes[make]
            names |= {
                "endpoint": server.endpoint,
                "host": server.endpoint.removeprefix("http://"),
                "tls_endpoint": server.tls_endpoint,
                "key": server.access_key,
                "secret": server.secret_key,
            }
        return names

    def pull(self, uri: str, destination: Path, environ: Mapping[str, str]) -> Outcome:
        """``cachd pull URI DEST``, whose exit codes tell more than an init container's."""
        return self.run(["pull", uri, str(destination)], destination, environ)

    def run(self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Outcome:
        """``cachd`` in the environment of KServe's init container; what is in ``folder`` then."""
        started = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "cachd", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "CACHD_SOCKET": str(self.daemon.socket),
                **environ,
            },
        )
        return Outcome(
            code=ended.returncode,
            stdout=ended.stdout,
            stderr=ended.stderr,
            tree=tree_of(folder),
            seconds=time.monotonic() - started,
        )


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str
    tree: dict[str, bytes]
    seconds: float


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, hidden ones as well; no link may be among them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        assert not path.is_symlink(), f"{path} is a symbolic link"
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def filled(value: Any, names: Mapping[str, str]) -> Any:
    """``$name`` replaced in a string, or in the strings of a mapping."""
    if isinstance(value, str):
        return Template(value).substitute(names)
    return {key: filled(each, names) for key, each in value.items()}


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port where connections are neither taken nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def make_world(
    folder: Path, certificates: Certificates, nginx: Nginx, makes: Mapping[str, Store]
) -> Iterator[World]:
    """One daemon for all rows. Names that don't exist on this machine are reached through a proxy,
    as in many a cluster; ours leads to a server on loopback."""
    authorities = Authorities(folder / "ca", certificates)
    authorities.bundle("custom", certificates.ca_pem)
    authorities.bundle("stranger", authorities.stranger_pem.read_text())
    authorities.bundle("malformed", "no certificate\n")
    with contextlib.ExitStack() as stack:
        web, public_web = Web(), Web(authorities.server_context("localhost"))
        objects = Objects(authorities.server_context(*NO_SUCH_NAMES))
        hub = stack.enter_context(Hub())
        for server in (web, public_web, objects):
            stack.callback(server.stop)
        port = stack.enter_context(deaf_port())
        environ = {
            "HOME": str(folder),
            "SSL_CERT_FILE": str(authorities.public_pem),
            "HTTP_PROXY": objects.url,
            "HTTPS_PROXY": objects.url,
            "NO_PROXY": f"{LOOPBACK},localhost",
        }
        daemon = stack.enter_context(running(folder / "daemon", environ))
        yield World(folder, authorities, web, public_web, objects, nginx, makes, daemon, port, hub)


def dumps(**fields: Any) -> str:
    return json.dumps(fields)
