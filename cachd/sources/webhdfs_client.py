"""Calls of WebHDFS: which namenode is the active one, and what its answers mean.

Operations and JSON are those of Apache Hadoop's documentation, "WebHDFS REST API"; HttpFS and Knox
speak the same, and answer OPEN themselves where a namenode redirects to a datanode.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
    OriginUnreachable,
)
from cachd.names import escape
from cachd.sources.http_rules import shown
from cachd.sources.webhdfs_location import url_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.sources.http_client import HttpAnswer, HttpClient
    from cachd.sources.webhdfs_identity import HdfsIdentity

_SAID_MOST = 300
_LISTING_MOST = 64 * 1024 * 1024
"""Bytes of one answer; a directory's may be long where the server knows no batches."""

_RPC_PORT = b"HTTP request to a Hadoop IPC port"
"""What Hadoop answers to HTTP on the port of its own protocol."""

_BUSY = {"SafeModeException", "RetriableException", "RetryException"}
_MISSING = {"FileNotFoundException"}
_DENIED = {"AccessControlException", "AuthorizationException"}
_BAD_TOKEN = re.compile(r"InvalidToken|token .*(expired|can't be found)", re.IGNORECASE)


class WebHdfs:
    """One session at a namenode, or at whichever of them is active."""

    def __init__(
        self, client: HttpClient, bases: Sequence[str], identity: HdfsIdentity, first: str
    ) -> None:
        """``first``: the base to begin with, as it was the active one last."""
        self._client = client
        self._identity = identity
        rest = [base for base in bases if base != first]
        self._bases = [first, *rest] if len(rest) < len(bases) else rest
        self.active = self._bases[0]
        """The base that answered last."""

    async def call(self, op: str, path: str, **query: str) -> Any:
        """The answer's JSON, from the active namenode. Raises CachdError."""
        return self._json(await self.raw(op, path, **query))

    async def raw(self, op: str, path: str, **query: str) -> HttpAnswer:
        """The answer, redirects followed. Raises CachdError for any but a good one."""
        refusal: CachdError | None = None
        for base in [self.active, *(b for b in self._bases if b != self.active)]:
            url = url_of(base, path, op, **query) + self._identity.query_after()
            try:
                answer = await self._client.call("GET", url, most=_LISTING_MOST)
                check(answer, path, self._identity)
            except _Standby as standby:
                refusal = refusal or standby.error
            except OriginUnreachable as error:
                # Of a namenode that is gone the other may have taken over.
                refusal = error
            else:
                self.active = base
                return answer
        assert refusal is not None
        raise refusal

    @staticmethod
    def _json(answer: HttpAnswer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            raise _no_webhdfs(answer) from None


class _Standby(Exception):
    def __init__(self, error: CachdError) -> None:
        super().__init__(error.message)
        self.error = error


def check(answer: HttpAnswer, path: str, identity: HdfsIdentity) -> None:
    """Raises what an answer that is no success means."""
    if answer.status < 300:
        return
    name, said = _remote(answer, identity)
    where, status = shown(answer.url).partition("/webhdfs/v1")[0], answer.status
    who = identity.shown
    told = f": {said}" if said else ""
    code = f"{status} {name}".strip()
    if name == "StandbyException":
        raise _Standby(
            OriginUnreachable(
                f"no namenode is active; {where} is a standby",
                hint="name all of them in HDFS_NAMENODE, with ';' between them",
            )
        )
    if name in _BUSY or status in (429, 503):
        raise OriginBusy(
            f"{where} is not ready ({code}){told}",
            retry_after=answer.retry_after,
            hint="ask again in a while",
        )
    if name in _MISSING or (name == "" and status in (404, 410)):
        if name == "":
            raise _no_webhdfs(answer)
        raise NotFound(f"{path} does not exist at {where} ({code})", hint="check the path")
    if _BAD_TOKEN.search(said) or (status == 401 and identity.has_pass):
        raise CredentialsInvalid(
            f"authentication failed: {where} refuses {who} ({code}){told}",
            hint="is the delegation token expired, or not for this cluster?"
            if identity.token
            else "check the headers or the certificate of the HDFS secret",
        )
    if status == 401:
        negotiates = "negotiate" in answer.headers.get("WWW-Authenticate", "").lower()
        raise CredentialsMissing(
            f"authentication is needed: {where} answered {code} to {who}{told}",
            hint="this cluster wants Kerberos (SPNEGO), which cachd doesn't speak: send a "
            "delegation token, or go by HttpFS or Knox with HEADERS"
            if negotiates
            else "send a delegation token, or HEADERS",
        )
    if name in _DENIED or status == 403:
        raise AccessError(
            f"access denied: {where} answered {code} for {path} to {who}{told}",
            hint="may this user read the path, and enter its directories?",
        )
    raise OriginError(
        f"{where} answered {code} for {path}{told}",
        status=status,
        hint="the namenode's log says more",
    )


def _remote(answer: HttpAnswer, identity: HdfsIdentity) -> tuple[str, str]:
    """The name and the message of a ``RemoteException``, "" where there is none."""
    try:
        found = json.loads(answer.body)["RemoteException"]
        name, said = str(found["exception"]), str(found.get("message") or "")
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return "", ""
    line = identity.without_secrets(said.strip().partition("\n")[0])
    name = name if re.fullmatch(r"[A-Za-z0-9_$.]{1,80}", name) else ""
    return name, escape(line[:_SAID_MOST])[1:-1] if line else ""


def _no_webhdfs(answer: HttpAnswer) -> CachdError:
    where = shown(answer.url).partition("/webhdfs/v1")[0]
    if _RPC_PORT in answer.body:
        return OriginError(
            f"{where} is the port of Hadoop's own protocol, not of WebHDFS",
            hint="WebHDFS is at the namenode's http port: 9870, or 9871 with TLS",
            status=answer.status,
        )
    return OriginError(
        f"{where} answered {answer.status}, but not as WebHDFS",
        hint="is this a namenode's http port, HttpFS or Knox, and dfs.webhdfs.enabled true?",
        status=answer.status,
    )
