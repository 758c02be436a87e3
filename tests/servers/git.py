"""A real git server: Debian's ``git http-backend`` behind a CGI server of ours, with Basic
authentication; and beside it a small server of Git LFS, which the real client pushes to (git-lfs,
docs/api/batch.md and basic-transfers.md)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.servers import require
from tests.servers.loopback import Handler, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_LFS = "application/vnd.git-lfs+json"
_ENVIRON = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "LC_ALL": "C.UTF-8",
}


def git(folder: Path, *arguments: str, home: Path, **environ: str) -> str:
    """The real client; what it says."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **_ENVIRON, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"git {arguments}: {done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Asked:
    server: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class GitServer:
    """Bare repositories below ``folder``. ``users``: who may read what is in ``private``, and may
    push. ``storage``: where LFS objects are had, on a port of its own, for
    whoever has the link's token, which changes with ``expire``. ``status``: answers instead, by the
    path's end."""

    folder: Path
    users: dict[str, str] = field(default_factory=lambda: {"me": "sesame"})
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[Asked] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    has_lfs: bool = True
    expires_in: int = 3600

    def __post_init__(self) -> None:
        self.root = self.folder / "root"
        self.home = self.folder / "home"
        self.root.mkdir(parents=True)
        self.home.mkdir()
        self.token = "link-1"
        self._front = Server(_front(self))
        self._store = Server(_store(self))
        self.host = self._front.host
        self.url = self._front.url
        self.storage = self._store.url

    def stop(self) -> None:
        self._front.stop()
        self._store.stop()

    def expire(self) -> None:
        """The links that were given are no longer good."""
        self.token = f"link-{int(self.token[5:]) + 1}"

    def make(self, name: str, *, allows_filter: bool = True, is_private: bool = False) -> str:
        """An empty repository; its URL."""
        bare = self.root / name
        self.git(self.root, "init", "-q", "--bare", "-b", "main", name)
        self.git(bare, "config", "uploadpack.allowFilter", str(allows_filter).lower())
        self.git(bare, "config", "http.receivepack", "true")
        if is_private:
            self.private.add(name)
        return f"{self.url}/{name}"

    def git(self, folder: Path, *arguments: str, **environ: str) -> str:
        return git(folder, *arguments, home=self.home, **environ)

    def work(self, name: str) -> Path:
        """A working copy that pushes to the repository through the front door."""
        copy = self.folder / "work" / name
        copy.mkdir(parents=True)
        self.git(copy, "init", "-q", "-b", "main", ".")
        user, password = next(iter(self.users.items()))
        url = f"http://{user}:{password}@{self.host}/{name}"
        self.git(copy, "remote", "add", "origin", url)
        self.git(copy, "config", f"lfs.{url}/info/lfs.locksverify", "false")
        return copy

    def commit(
        self,
        name: str,
        files: Mapping[str, bytes | None],
        *,
        links: Mapping[str, str] | None = None,
    ) -> str:
        """Commit and push; None removes. The commit."""
        copy = self.folder / "work" / name
        if not copy.exists():
            copy = self.work(name)
        for path, data in files.items():
            target = copy / path
            if data is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for path, to in (links or {}).items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).symlink_to(to)
        self.git(copy, "add", "-A")
        self.git(copy, "commit", "-q", "-m", "change")
        self.git(copy, "push", "-q", "origin", "HEAD:main")
        return self.git(copy, "rev-parse", "HEAD")

    def put_raw(self, name: str, names: list[str]) -> None:
        """A tree with entries of these names, whatever git thinks of them."""
        blob = self._feed(name, "hash-object", "-w", "--stdin", data=b"x")
        tree = b"".join(b"100644 " + n.encode() + b"\0" + bytes.fromhex(blob) for n in names)
        how = ("hash-object", "-t", "tree", "--literally", "-w", "--stdin")
        made = self._feed(name, *how, data=tree)
        bare = self.root / name
        commit = self.git(bare, "commit-tree", "-m", "x", made)
        self.git(bare, "update-ref", "refs/heads/main", commit)

    def _feed(self, name: str, *arguments: str, data: bytes) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.root / name,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **_ENVIRON},
            input=data,
            capture_output=True,
            check=True,
        )
        return done.stdout.decode().strip()

    def track(self, name: str, *patterns: str) -> None:
        """These go to LFS, by the real client."""
        copy = self.folder / "work" / name
        if not copy.exists():
            copy = self.work(name)
        self.git(copy, "lfs", "install", "--local")
        self.git(copy, "lfs", "track", *patterns)

    def asked(self, server: str = "", end: str = "") -> list[Asked]:
        return [a for a in self.seen if server in ("", a.server) and a.path.endswith(end)]

    def may(self, name: str, headers: Mapping[str, str], *, is_writing: bool) -> bool:
        if name not in self.private and not is_writing:
            return True
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind != "Basic":
            return False
        user, _, password = base64.b64decode(value).decode().partition(":")
        return self.users.get(user) == password


@contextmanager
def git_server(folder: Path) -> Iterator[GitServer]:
    """With what the real clients need, or the test is skipped."""
    require.program("git", "git")
    require.program("git-lfs", "git-lfs")
    server = GitServer(folder)
    try:
        yield server
    finally:
        server.stop()


def _front(server: GitServer) -> type[Handler]:
    class Front(Handler):
        def do_GET(self) -> None:
            body = self.read_body()
            headers = {k.lower(): v for k, v in self.headers.items()}
            parts = urlsplit(self.path)
            server.seen.append(Asked("front", self.command, parts.path, headers, body))
            for end, status in server.status.items():
                if parts.path.endswith(end):
                    return self.send(status)
            for old, new in server.moved.items():
                if parts.path.startswith(old):
                    where = new + parts.path.removeprefix(old)
                    return self.send(301, Location=f"{where}?{parts.query}")
            name, _, rest = parts.path.lstrip("/").partition(".git/")
            name += ".git"
            is_writing = "git-receive-pack" in self.path or b'"upload"' in body
            if not server.may(name, headers, is_writing=is_writing):
                return self.send(401, WWW_Authenticate='Basic realm="git"')
            if rest.startswith("info/lfs/"):
                return self._lfs(rest, body)
            return self._backend(parts.path, parts.query, headers, body)

        do_POST = do_PUT = do_HEAD = do_GET

        def _backend(self, path: str, query: str, headers: Mapping[str, str], body: bytes) -> None:
            environ = {
                "PATH": os.environ["PATH"],
                "HOME": str(server.home),
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_NOSYSTEM": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "REMOTE_USER": "me",
                "CONTENT_TYPE": headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
                "GIT_PROTOCOL": headers.get("git-protocol", ""),
            }
            done = subprocess.run(
                ["git", "http-backend"], input=body, env=environ, capture_output=True, check=False
            )
            head, _, answer = done.stdout.partition(b"\r\n\r\n")
            found = dict(line.split(": ", 1) for line in head.decode().splitlines() if line)
            status = int(found.pop("Status", "200").split()[0])
            self.send(status, answer, **found)

        def _lfs(self, rest: str, body: bytes) -> None:
            if not server.has_lfs or rest != "info/lfs/objects/batch":
                return self.send(404)
            asked = json.loads(body)
            rows = [self._row(asked["operation"], one) for one in asked["objects"]]
            answer = json.dumps({"transfer": "basic", "objects": rows}).encode()
            return self.send(200, answer, Content_Type=_LFS)

        def _row(self, operation: str, one: dict[str, Any]) -> dict[str, Any]:
            is_there = one["oid"] in server.objects
            if operation == "download" and not is_there:
                return {**one, "error": {"code": 404, "message": "Object does not exist"}}
            link = {
                "href": f"{server.storage}/{one['oid']}?token={server.token}",
                "header": {"X-Link": server.token},
                "expires_in": server.expires_in,
            }
            return {
                **one,
                "actions": {} if operation == "upload" and is_there else {operation: link},
            }

    return Front


def _store(server: GitServer) -> type[Handler]:
    class Store(Handler):
        def do_GET(self) -> None:
            body = self.read_body()
            headers = {k.lower(): v for k, v in self.headers.items()}
            parts = urlsplit(self.path)
            server.seen.append(Asked("store", self.command, parts.path, headers, body))
            oid = parts.path.strip("/")
            if parts.query != f"token={server.token}" or headers.get("x-link") != server.token:
                return self.send(403)
            if self.command == "PUT":
                assert hashlib.sha256(body).hexdigest() == oid
                server.objects[oid] = body
                return self.send(200)
            data = server.objects[oid]
            match = _RANGE.fullmatch(headers.get("range", ""))
            if match is None:
                return self.send(200, data, Accept_Ranges="bytes")
            first = int(match[1])
            part = data[first : int(match[2] or len(data)) + 1]
            span = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
            return self.send(206, part, Content_Range=span)

        do_PUT = do_HEAD = do_GET

    return Store
