"""A namenode and a datanode that speak WebHDFS over files in memory; written from Apache Hadoop's
documentation ("WebHDFS REST API"), for there is no HDFS here that could run.

A namenode answers OPEN and GETFILECHECKSUM with 307 to a datanode, which has a port of its own and
knows a file's state when it is read, not when the redirect was made. With ``is_gateway`` it is
HttpFS: it answers itself. Directories are what files' names say, and ``mkdir``.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from awscrt import checksums

from tests.servers.loopback import OCTETS, Handler, Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_PREFIX = "/webhdfs/v1"
_STATUS = {
    "FileNotFoundException": 404,
    "AccessControlException": 403,
    "StandbyException": 403,
    "SecurityException": 403,
    "SafeModeException": 403,
    "RetriableException": 403,
    "IllegalArgumentException": 400,
    "IOException": 500,
}
_JAVA = {
    "FileNotFoundException": "java.io.FileNotFoundException",
    "AccessControlException": "org.apache.hadoop.security.AccessControlException",
    "StandbyException": "org.apache.hadoop.ipc.StandbyException",
}


@dataclass
class HdfsFile:
    data: bytes
    modified: int
    file_id: int
    link: str = ""


@dataclass(frozen=True)
class Asked:
    """One request: of ``server`` "namenode" or "datanode"."""

    server: str
    op: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Refused(Exception):
    def __init__(self, exception: str, message: str) -> None:
        super().__init__(message)
        self.exception = exception


@dataclass
class Hdfs:
    """One file system. ``readers``: who alone may read below a path. ``tokens``: delegation tokens,
    and whose they are; with any, nobody else is let in. ``hostile``: what a directory claims to
    hold. ``wants``: a header to be let in by. ``combine``: dfs.checksum.combine.mode. ``state``:
    what each namenode's answer is instead, by its number. ``on_read`` is called before a datanode
    sends."""

    files: dict[str, HdfsFile] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"/"})
    readers: dict[str, str] = field(default_factory=dict)
    hostile: dict[str, list[str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    wants: tuple[str, str] | None = None
    wants_kerberos: bool = False
    combine: str = "MD5MD5CRC"
    is_gateway: bool = False
    knows_batches: bool = True
    state: dict[int, str] = field(default_factory=dict)
    on_read: Callable[[str], None] | None = None
    batch: int = 1000
    seen: list[Asked] = field(default_factory=list)
    _next: int = 16386
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, data: bytes, *, modified: int | None = None) -> None:
        """A write makes a file anew: another inode, another time."""
        with self._lock:
            self._next += 1
            when = 1_700_000_000_000 + self._next if modified is None else modified
            self.files[path] = HdfsFile(data, when, self._next)
        self.mkdir(path.rpartition("/")[0])

    def link(self, path: str, to: str) -> None:
        self.put(path, b"")
        self.files[path].link = to

    def mkdir(self, path: str) -> None:
        while path:
            self.folders.add(path)
            path = path.rpartition("/")[0]

    def ops(self, server: str = "") -> list[str]:
        return [one.op for one in self.seen if server in ("", one.server)]

    # --- answers ---------------------------------------------------------------------------

    def who(self, query: dict[str, str], headers: dict[str, str]) -> str:
        if "delegation" in query:
            user = self.tokens.get(query["delegation"])
            if user is None:
                raise Refused(
                    "SecurityException",
                    "Failed to obtain user group information: org.apache.hadoop.security.token."
                    f"SecretManager$InvalidToken: token {query['delegation']} can't be found",
                )
            return user
        if self.wants is not None and headers.get(self.wants[0].lower()) == self.wants[1]:
            return query.get("doas", "gateway")
        if self.tokens or self.wants is not None:
            raise PermissionError
        if "doas" in query:
            raise Refused("AuthorizationException", "User: dr.who is not allowed to impersonate")
        return query.get("user.name", "dr.who")

    def check_read(self, user: str, path: str) -> None:
        for folder, reader in self.readers.items():
            if (path == folder or path.startswith(folder + "/")) and user != reader:
                raise Refused(
                    "AccessControlException",
                    f'Permission denied: user={user}, access=READ, inode="{path}"',
                )

    def children(self, folder: str) -> list[str]:
        below = folder.rstrip("/") + "/"
        known = [*self.files, *self.folders]
        return sorted(
            {p[len(below) :] for p in known if p.startswith(below) and "/" not in p[len(below) :]}
            - {""}
        )

    def status(self, path: str, suffix: str) -> dict[str, Any]:
        file = self.files.get(path)
        common = {"group": "g", "owner": "o", "pathSuffix": suffix, "permission": "644"}
        if file is not None:
            return {
                **common,
                "type": "SYMLINK" if file.link else "FILE",
                "length": len(file.data),
                "modificationTime": file.modified,
                "accessTime": file.modified,
                "childrenNum": 0,
                "fileId": 0 if self.is_gateway else file.file_id,
                "blockSize": 134217728,
                "replication": 1,
                "storagePolicy": 0,
            }
        if path not in self.folders and path != "/":
            raise Refused("FileNotFoundException", f"File does not exist: {path}")
        found: dict[str, Any] = {
            **common,
            "type": "DIRECTORY",
            "length": 0,
            "modificationTime": 1,
            "accessTime": 0,
            "fileId": 16385,
            "blockSize": 0,
            "replication": 0,
            "storagePolicy": 0,
        }
        if not self.is_gateway:
            found["childrenNum"] = len(self.children(path))
        return found

    def metadata(self, op: str, path: str, query: dict[str, str], user: str) -> Any:
        if op == "GETFILESTATUS":
            return {"FileStatus": self.status(path, "")}
        self.check_read(user, path)
        if op == "LISTSTATUS" or (op == "LISTSTATUS_BATCH" and self.knows_batches):
            self.status(path, "")
            names = self.children(path)
            if op == "LISTSTATUS":
                return self._statuses(path, names)
            names = [n for n in names if n > query.get("startAfter", "")]
            most = len(names) if self.is_gateway else self.batch
            return {
                "DirectoryListing": {
                    "partialListing": self._statuses(path, names[:most]),
                    "remainingEntries": max(0, len(names) - most),
                }
            }
        raise Refused("IllegalArgumentException", f'Invalid value for webhdfs parameter "op": {op}')

    def _statuses(self, path: str, names: list[str]) -> Any:
        if path in self.hostile:
            file = {"type": "FILE", "length": 1, "modificationTime": 1, "fileId": 2}
            claimed = [{**file, "pathSuffix": name} for name in self.hostile[path]]
            return {"FileStatuses": {"FileStatus": claimed}}
        below = path.rstrip("/") + "/"
        return {"FileStatuses": {"FileStatus": [self.status(below + n, n) for n in names]}}

    def checksum(self, path: str) -> Any:
        data = self.files[path].data
        if self.combine == "COMPOSITE_CRC":
            value = f"{checksums.crc32c(data):08x}"
            said = {"algorithm": "COMPOSITE-CRC32C", "bytes": value, "length": 4}
        else:
            said = {"algorithm": "MD5-of-0MD5-of-512CRC32C", "bytes": "00" * 28, "length": 28}
        return {"FileChecksum": said}


class HdfsServer:
    """``namenodes`` of one file system, and one datanode. Use as a context manager."""

    def __init__(
        self, hdfs: Hdfs | None = None, *, namenodes: int = 1, tls: ssl.SSLContext | None = None
    ) -> None:
        self.hdfs = hdfs or Hdfs()
        self._servers = [
            Server(_handler(self, "namenode", number), tls) for number in range(namenodes)
        ]
        self._datanode = Server(_handler(self, "datanode", 0), tls)
        self.hosts = [server.host for server in self._servers]
        self.urls = [server.url for server in self._servers]
        self.datanode = self._datanode.url

    @property
    def host(self) -> str:
        return self.hosts[0]

    @property
    def url(self) -> str:
        return self.urls[0]

    def __enter__(self) -> HdfsServer:
        return self

    def __exit__(self, *_: object) -> None:
        for server in [*self._servers, self._datanode]:
            server.stop()

    def stop_namenode(self, number: int) -> None:
        self._servers[number].stop()


def _handler(server: HdfsServer, kind: str, number: int) -> type[Handler]:
    hdfs = server.hdfs

    class HdfsHandler(Handler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            op = query.get("op", "").upper()
            path = unquote(parts.path.removeprefix(_PREFIX)) or "/"
            headers = {k.lower(): v for k, v in self.headers.items()}
            hdfs.seen.append(Asked(kind, op, path, query, headers))
            if not parts.path.startswith(_PREFIX):
                self.send(404, b"<html>Not Found</html>", Content_Type="text/html")
                return
            try:
                self._answer(op, path, query, headers)
            except Refused as refused:
                name = refused.exception
                said = {
                    "exception": name,
                    "javaClassName": _JAVA.get(name, f"java.lang.{name}"),
                    "message": str(refused),
                }
                self._json({"RemoteException": said}, _STATUS.get(name, 403))
            except PermissionError:
                more = {"WWW-Authenticate": "Negotiate"} if hdfs.wants_kerberos else {}
                body = b"<html>Authentication required</html>"
                self.send(401, body, Content_Type="text/html", **more)

        def _answer(
            self, op: str, path: str, query: dict[str, str], headers: dict[str, str]
        ) -> None:
            if kind == "namenode" and number in hdfs.state:
                raise Refused(hdfs.state[number], f"Operation category READ: {hdfs.state[number]}")
            # A datanode has the redirect's word for who asks, or the delegation token.
            user = query.get("_user", "") or hdfs.who(query, headers)
            if op not in ("OPEN", "GETFILECHECKSUM"):
                self._json(hdfs.metadata(op, path, query, user))
                return
            if kind == "datanode" and hdfs.on_read is not None and op == "OPEN":
                hdfs.on_read(path)
            hdfs.check_read(user, path)
            if path not in hdfs.files:
                raise Refused("FileNotFoundException", f"File does not exist: {path}")
            if kind == "namenode" and not hdfs.is_gateway:
                more = {"_user": user, "namenoderpcaddress": "nn:8020"}
                where = f"{_PREFIX}{quote(path)}?{urlencode({**query, **more})}"
                self.send(307, Location=server.datanode + where)
            elif op == "GETFILECHECKSUM":
                self._json(hdfs.checksum(path))
            else:
                self._open(hdfs.files[path].data, query)

        def _open(self, data: bytes, query: dict[str, str]) -> None:
            start = int(query.get("offset", 0))
            if start > len(data):
                raise Refused("IOException", f"Offset={start} out of the range")
            end = start + int(query["length"]) if "length" in query else len(data)
            self.send(200, data[start:end], Content_Type=OCTETS)

        def _json(self, value: Any, status: int = 200) -> None:
            self.send(status, json.dumps(value).encode(), Content_Type="application/json")

    return HdfsHandler
