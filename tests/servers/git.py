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
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.servers.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    push, but for the ``poor``. ``storage``: where LFS objects are had, on a port of its own, for
    whoever has the link's token, which changes with ``expire``. ``status``: answers instead, by the
    path's end."""

    folder: Path
    users: dict[str, str] = field(default_factory=lambda: {"me": "sesame"})
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[Asked] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    poor: set[str] = field(default_factory=set)
    has_lfs: bool = True
    expires_in: int = 3600

    def __post_init__(self) -> None:
        self.root = self.folder / "root"
        self.home = self.folder / "home"
        self.root.mkdir(parents=True)
        self.home.mkdir()
        self.token = "link-1"
        self._front = _Server(_front(self))
        self._store = _Server(_store(self))
        self.host = f"{LOOPBACK}:{self._front.port}"
        self.url = f"http://{self.host}"
        self.storage = f"http://{LOOPBACK}:{self._store.port}"

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

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        """All that the branch main has now, without a client: fast."""
        stream = b"commit refs/heads/main\ncommitter a <a@example.com> 1700000000 +0000\n"
        stream += b"data 0\nfrom refs/heads/main^0\n" if self._has_main(name) else b"data 0\n"
        stream += b"deleteall\n"
        for path, data in files.items():
            quoted = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            stream += f'M 100644 inline "{quoted}"\ndata {len(data)}\n'.encode() + data + b"\n"
        self._feed(name, ["fast-import", "--quiet"], stream)

    def put_raw(self, name: str, names: list[str]) -> None:
        """A tree with entries of these names, whatever git thinks of them."""
        blob = self._feed(name, ["hash-object", "-w", "--stdin"], b"x").decode().strip()
        tree = b"".join(b"100644 " + n.encode() + b"\0" + bytes.fromhex(blob) for n in names)
        how = ["hash-object", "-t", "tree", "--literally", "-w", "--stdin"]
        made = self._feed(name, how, tree).decode().strip()
        bare = self.root / name
        commit = self.git(bare, "commit-tree", "-m", "x", made)
        self.git(bare, "update-ref", "refs/heads/main", commit)

    def _has_main(self, name: str) -> bool:
        return (self.root / name / "refs/heads/main").exists()

    def _feed(self, name: str, arguments: list[str], data: bytes) -> bytes:
        return subprocess.run(
            ["git", *arguments],
            cwd=self.root / name,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **_ENVIRON},
            input=data,
            capture_output=True,
            check=True,
        ).stdout

    def track(self, name: str, *patterns: str) -> None:
        """These go to LFS, by the real client."""
        copy = self.folder / "work" / name
        if not copy.exists():
            copy = self.work(name)
        self.git(copy, "lfs", "install", "--local")
        self.git(copy, "lfs", "track", *patterns)

    def asked(self, server: str = "", end: str = "") -> list[Asked]:
        return [a for a in self.seen if server in ("", a.server) and a.path.endswith(end)]

    def may(self, name: str, headers: Mapping[str, str], *, is_writing: bool) -> int:
        """A status: 200, 401 or 403."""
        if name not in self.private and not is_writing:
            return 200
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind != "Basic":
            return 401
        user, _, password = base64.b64decode(value).decode().partition(":")
        if self.users.get(user) != password:
            return 401
        return 403 if user in self.poor else 200


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__((LOOPBACK, 0), handler)
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _front(server: GitServer) -> type[BaseHTTPRequestHandler]:
    class Front(_Handler):
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
            status = server.may(name, headers, is_writing=is_writing)
            if status != 200:
                return self.send(status, WWW_Authenticate='Basic realm="git"')
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


def _store(server: GitServer) -> type[BaseHTTPRequestHandler]:
    class Store(_Handler):
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
