"""Who asks: over a Unix socket the kernel says it, over TCP a token. The listener has the role."""

from __future__ import annotations

import asyncio
import hmac
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from cachd.cache.types import Caller
from cachd.errors import CredentialsInvalid, CredentialsMissing, KubernetesFailed, NotReady

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from cachd.cache.types import Role
    from cachd.kube.tokens import Account

Identify = Callable[["web.Request"], Awaitable[Caller]]

_UCRED = struct.Struct("iII")


def peer_of(sock: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of who connected, as the kernel saw them then."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(data)
    return pid, uid, gid


class Accounts(Protocol):
    """What ``cachd.kube.tokens.TokenReviews`` does for us."""

    async def review(self, token: str) -> Account: ...


class PeerIdentity:
    """SO_PEERCRED of the connection: pid, uid and gid of who connected, as the kernel saw them; and
    whose service-account token a request carries, if ``accounts`` can tell.

    A peer in a pid namespace that isn't below ours has pid 0.
    """

    def __init__(self, role: Role, accounts: Accounts | None = None) -> None:
        self._role = role
        self._accounts = accounts

    async def __call__(self, request: web.Request) -> Caller:
        transport = request.transport
        sock = transport.get_extra_info("socket") if transport else None
        if sock is None:
            raise ConnectionResetError("the caller went away")
        pid, uid, gid = peer_of(sock)
        caller = Caller(role=self._role, uid=uid, gid=gid, pid=pid)
        if self._accounts is None or "Authorization" not in request.headers:
            return caller
        return await with_account(caller, self._accounts, _bearer(request))


async def with_account(caller: Caller, accounts: Accounts, token: str) -> Caller:
    """``caller`` with what its token says."""
    try:
        account = await accounts.review(token)
    except KubernetesFailed as error:
        # Only a rule that needs to know it minds.
        return replace(caller, unproven=error.message)
    return replace(
        caller,
        namespace=account.namespace,
        service_account=account.service_account,
        pod_name=account.pod_name,
        pod_uid=account.pod_uid,
    )


def _bearer(request: web.Request) -> str:
    """The one token. Raises CredentialsInvalid."""
    sent = request.headers.getall("Authorization")
    scheme, _, token = sent[0].partition(" ")
    if len(sent) != 1 or scheme.lower() != "bearer" or not token.strip():
        raise CredentialsInvalid(
            "the header Authorization holds no bearer token",
            hint="send Authorization: Bearer TOKEN once, with the pod's service-account token; "
            "credentials of a source go into the body",
        )
    return token.strip()


class TokenIdentity:
    """A bearer token, compared in constant time with a file that is read again when it changes."""

    def __init__(self, file: Path, role: Role) -> None:
        self._file = file
        self._role = role
        self._seen: tuple[int, int, int] | None = None
        self._token = b""

    async def __call__(self, request: web.Request) -> Caller:
        token = await asyncio.to_thread(self._read)
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise CredentialsMissing(
                "this listener wants a token",
                hint="send the header Authorization: Bearer TOKEN",
            )
        if not hmac.compare_digest(sent.strip().encode("utf-8", "surrogateescape"), token):
            raise CredentialsInvalid(
                "the token is not the right one",
                hint="it is the content of the daemon's listen.api.token_file",
            )
        return Caller(role=self._role)

    def _read(self) -> bytes:
        try:
            status = self._file.stat()
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if state != self._seen:
                self._token = self._file.read_bytes().strip()
                self._seen = state
        except OSError:
            self._seen, self._token = None, b""
        if not self._token:
            raise NotReady(
                "the daemon's token file can't be read or is empty; nobody is let in",
                hint="see listen.api.token_file",
            )
        return self._token
