"""``files.sock``: one packet asks for a file, one answers, with a read-only descriptor of it.

A pod needs no mount of the cache then, and copies (or clones) inside the kernel. Who has a
descriptor keeps the file's bytes until it closes it, whatever is evicted meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from cachd import logs
from cachd.api import problem
from cachd.api.body import Fields, parse_json
from cachd.api.files import find
from cachd.api.identity import peer_of, with_account
from cachd.api.middleware import choose_id
from cachd.api.models import check_key
from cachd.cache.types import Caller
from cachd.errors import CachdError, InvalidError

if TYPE_CHECKING:
    from cachd.api.connections import Gate
    from cachd.api.identity import Accounts
    from cachd.api.protocol import CacheApi
    from cachd.api.readonly import ReadonlyRoot
    from cachd.metrics import Metrics

log = logging.getLogger("cachd.api")

MAX_PACKET = 64 * 1024
"""Bytes of a request: a path has 4096, a lease's id some 30, a token a few thousand."""
IDLE = 60.0
"""Seconds that a connection may be silent, or not take its answer."""
_ENDPOINT = "descriptor"


class Descriptors:
    """Serves until ``close``."""

    def __init__(
        self,
        cache: CacheApi,
        root: ReadonlyRoot,
        gate: Gate,
        metrics: Metrics,
        accounts: Accounts | None = None,
    ) -> None:
        self._cache = cache
        self._root = root
        self._gate = gate
        self._metrics = metrics
        self._accounts = accounts
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def start(self, sock: socket.socket) -> None:
        """``sock`` listens, doesn't block, and is closed by whoever gave it."""
        self._accepting = asyncio.create_task(self._accept(sock), name="cachd-descriptors")

    async def close(self) -> None:
        """A second call does nothing."""
        tasks = {*self._serving, *([self._accepting] if self._accepting else ())}
        self._accepting = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(sock)
            except OSError as error:
                # No descriptors left, most likely.
                log.warning("files.sock can't take a connection: %s", error)
                await asyncio.sleep(1.0)
                continue
            task = asyncio.create_task(self._serve(connection), name="cachd-descriptor")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            pid, uid, gid = peer_of(connection)
            if not self._gate.enter(uid):
                return
            try:
                caller = Caller(role="pod", uid=uid, gid=gid, pid=pid)
                while await self._answer_one(connection, caller):
                    pass
            except (TimeoutError, ConnectionError):
                return
            finally:
                self._gate.leave(uid)

    async def _answer_one(self, connection: socket.socket, caller: Caller) -> bool:
        """Whether the connection goes on."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(IDLE):
            packet = await loop.sock_recv(connection, MAX_PACKET + 1)
        if not packet:
            return False
        request_id, started = choose_id(""), loop.time()
        with logs.bound(request=request_id, model=""):
            fd, status = -1, 200
            try:
                answer, fd = await self._open(packet, caller)
            except CachdError as error:
                found = problem.to_problem(problem.told(error, request_id), request_id)
                answer, status = {"problem": found}, found["status"]
            except Exception:
                log.exception("unexpected error for a descriptor")
                found = problem.to_problem(problem.internal(request_id), request_id)
                answer, status = {"problem": found}, found["status"]
            try:
                await _send(connection, json.dumps(answer).encode(), fd)
            finally:
                if fd >= 0:
                    os.close(fd)
            self._metrics.requested(_ENDPOINT, status, loop.time() - started)
            log.info(
                "descriptor",
                extra={"status": status, "uid": caller.uid, "pid": caller.pid},
            )
        return True

    async def _open(self, packet: bytes, caller: Caller) -> tuple[dict[str, Any], int]:
        if len(packet) > MAX_PACKET:
            raise InvalidError(f"a request has at most {MAX_PACKET} bytes")
        fields = Fields(parse_json(packet))
        key = check_key(fields.text("key") or "")
        revision = fields.text("revision", limit=128)
        path = fields.text("path", limit=4096)
        lease_id = fields.text("lease")
        token = fields.text("token", limit=MAX_PACKET)
        fields.finish()
        if path is None:
            raise fields.fail("path", "is missing")
        if token is not None and self._accounts is not None:
            caller = await with_account(caller, self._accounts, token)
        logs.key.set(key)
        snapshot = await self._cache.readable(key, caller, revision=revision, lease_id=lease_id)
        file = find(snapshot, path)
        with self._cache.reading(snapshot):
            fd = await asyncio.to_thread(self._root.open, snapshot, file)
        return {"size": file.size, "revision": snapshot.revision}, fd


async def _send(connection: socket.socket, data: bytes, fd: int) -> None:
    """One packet, with ``fd`` unless it is negative."""
    fds = [fd] if fd >= 0 else []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(IDLE):
        while True:
            try:
                socket.send_fds(connection, [data], fds)
                return
            except BlockingIOError:
                ready = loop.create_future()
                loop.add_writer(connection.fileno(), _wake, ready)
                try:
                    await ready
                finally:
                    loop.remove_writer(connection.fileno())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
