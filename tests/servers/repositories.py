"""Model repositories as hubs keep them, and the host that they send their callers on to for big
files: what the fakes of two hubs share. Written from their public documentation and clients; the
real hubs can't be had offline.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.servers.loopback import Handler, Server

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def git_name(body: bytes) -> str:
    """What git calls a blob."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass
class Repository:
    """``commits`` by name, each with all files; ``branches`` name some. Only ``readers`` (tokens)
    may read it where it is ``gated``, or know of it where it is ``private``. ``moved``: its new
    name, to which calls are redirected. ``lies``: bytes that are sent in place of a path's.
    ``trees`` are listings that were made already."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    gated: bool = False
    private: bool = False
    disabled: bool = False
    moved: str = ""
    lies: dict[str, bytes] = field(default_factory=dict)
    trees: dict[object, list[dict[str, object]]] = field(default_factory=dict, repr=False)

    def commit(self, files: Mapping[str, bytes], branch: str) -> str:
        """A new state of the branch; its name."""
        rows = [f"{path} {git_name(body)}" for path, body in sorted(files.items())]
        name = hashlib.sha1("\n".join([*self.commits, *rows]).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name

    def find(self, revision: str) -> str | None:
        """The commit that the revision means."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    @staticmethod
    def is_big(path: str, body: bytes) -> bool:
        """Whether it is kept in LFS."""
        return path.endswith((".safetensors", ".bin")) or len(body) > 100_000


@dataclass
class Seen:
    """One request that a server got; ``target`` is path and query."""

    method: str
    target: str
    headers: dict[str, str]


class Serving(ABC):
    """A server on loopback, in threads. ``next`` answers are given before any other: status and
    headers."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.next: deque[tuple[int, dict[str, str]]] = deque()
        self.lock = threading.Lock()
        serving = self

        class ServingHandler(Handler):
            def do_GET(self) -> None:
                serving._answer(self)

            do_HEAD = do_POST = do_GET

        self._server = Server(ServingHandler)
        self.url = self._server.url

    def close(self) -> None:
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def act(self, call: Call) -> None:
        """Answer ``call``. In several threads."""

    def _answer(self, handler: Handler) -> None:
        call = Call(handler)
        with self.lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.seen.append(Seen(handler.command, handler.path, headers))
            first = self.next.popleft() if self.next else None
        if first is not None:
            call.send(first[0], b"", **first[1])
        else:
            self.act(call)


class Call:
    """One request, and the ways to answer it. ``path`` is still percent-encoded."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.method = handler.command
        self.path = urlsplit(handler.path).path
        self.query = {
            name: values[-1] for name, values in parse_qs(urlsplit(handler.path).query).items()
        }
        self.headers = handler.headers

    @property
    def token(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def send(self, status: int, body: bytes = b"", **headers: Any) -> None:
        self._handler.read_body()
        self._handler.send(status, body, **headers)

    def send_file(self, body: bytes, **headers: Any) -> None:
        """With ranges."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        headers = {"Accept_Ranges": "bytes", **headers}
        if match and int(match[1]) >= len(body):
            self.send(416, b"", Content_Range=f"bytes */{len(body)}")
        elif match:
            start = int(match[1])
            end = min(int(match[2]) + 1 if match[2] else len(body), len(body))
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            self.send(206, body[start:end], **headers)
        else:
            self.send(200, body, **headers)


class RepositoryServer(Serving):
    """What two hubs share: ``repositories`` by name; ``tokens`` are known ones. ``is_direct``: big
    files aren't at another host. ``branch``: what a repository has at first."""

    branch: ClassVar[str]

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.is_direct = False
        self.store = Store()
        super().__init__()

    def close(self) -> None:
        super().close()
        self.store.close()

    def add(self, name: str, files: dict[str, bytes], **more: object) -> Repository:
        """A repository with one commit."""
        repository = Repository(**more)  # type: ignore[arg-type]
        repository.commit(files, self.branch)
        self.repositories[name] = repository
        self.tokens |= repository.readers
        return repository


class Store(Serving):
    """The other host, where big files are. Its URLs are signed for GET, end after a minute, and
    with ``is_once`` after one use; like S3 it refuses a request that proves itself twice. Its ETags
    are its own."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.is_once = False
        self._used: set[str] = set()
        self._key = secrets.token_bytes(16)
        super().__init__()

    def url_of(self, body: bytes) -> str:
        name = sha256_of(body)
        with self.lock:
            self.bodies[name] = body
        ends = f"{time.time() + 60:.9f}"
        return f"{self.url}/{name}?Expires={quote(ends)}&Signature={self._sign(name, ends)}"

    def _sign(self, name: str, ends: str) -> str:
        return hmac.digest(self._key, f"{name} {ends}".encode(), "sha256").hex()

    def act(self, call: Call) -> None:
        name, ends = call.path.strip("/"), call.query.get("Expires", "0")
        is_signed = call.query.get("Signature") == self._sign(name, ends)
        if call.headers.get("Authorization"):
            return call.send(400, b"<Error><Code>InvalidArgument</Code></Error>")
        with self.lock:
            is_over = self.is_once and call.query.get("Signature", "") in self._used
            self._used.add(call.query.get("Signature", ""))
        if call.method != "GET" or not is_signed or is_over or float(ends) < time.time():
            return call.send(403, b"<Error><Code>AccessDenied</Code></Error>")
        tag = hashlib.md5(name.encode()).hexdigest()
        headers = {"ETag": f'"{tag}"', "x-amz-version-id": "v1"}
        return call.send_file(self.bodies[name], **headers)
