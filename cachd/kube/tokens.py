"""Whose service-account token a caller shows: TokenReview, remembered for a while.

Tokens are secrets: what is remembered is a keyed hash whose key dies with the process. The rules of
the API: Kubernetes documentation, "TokenReview v1 authentication.k8s.io" (an answer counts only if
``status.audiences`` has the audience that was asked for) and "Service Accounts" (usernames, and
the bound pod in ``user.extra`` from 1.21 on).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import re
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cachd.errors import CredentialsInvalid, KubernetesFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachd.settings import KubernetesSettings

log = logging.getLogger("cachd.kube")
T = TypeVar("T")

MAX_TOKEN = 4096
"""Characters; a service account's token has some 1000."""
NEGATIVE_TTL = 5.0
FAILURE_TTL = 1.0
"""Seconds that an API server which can't tell isn't asked again about a token."""
PATIENCE = 1.0
"""Seconds that one who was known waits for the API server's word in the time of grace."""
_MAX_REMEMBERED = 10_000
_MAX_REFUSED = 1000
_MAX_AT_ONCE = 8
_MAX_WAITING = 256
_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
_PREFIX = "system:serviceaccount:"
# RFC 6750 section 2.1, b68token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_HINT = (
    "mount a projected service-account token for this audience beside the socket, and point "
    "CACHD_TOKEN_FILE at it; it is read anew for each call"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A service account, and the pod that its token is bound to ("" where that isn't known)."""

    namespace: str
    service_account: str
    pod_name: str = ""
    pod_uid: str = ""


class Calls(Protocol):
    """What ``KubernetesClient`` does for us."""

    async def call(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]: ...


class Counts(Protocol):
    def token_reviewed(self, result: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Known:
    account: Account
    until: float
    grace_until: float


class TokenReviews:
    """``clock`` is monotonic, ``wall`` in seconds since the epoch, which tokens' ends are in."""

    def __init__(
        self,
        client: Calls,
        settings: KubernetesSettings,
        metrics: Counts,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, _Known] = {}
        self._refused: dict[bytes, tuple[float, str]] = {}
        self._failed: dict[bytes, tuple[float, str]] = {}
        self._running: dict[bytes, asyncio.Task[Account]] = {}
        self._gate = asyncio.Semaphore(_MAX_AT_ONCE)

    async def close(self) -> None:
        """End the questions under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def review(self, token: str) -> Account:
        """Raises CredentialsInvalid, and KubernetesFailed where nobody can tell."""
        _check_form(token)
        name = hashlib.blake2b(token.encode(), key=self._key, digest_size=16).digest()
        now = self._clock()
        known = self._known.get(name)
        if known is not None and now < known.until:
            self._metrics.token_reviewed("remembered")
            return known.account
        refused = self._refused.get(name)
        if refused is not None and now < refused[0]:
            self._metrics.token_reviewed("remembered")
            raise _refusal(refused[1])
        failed = self._failed.get(name)
        if failed is not None and now < failed[0]:
            raise KubernetesFailed(failed[1])
        task = self._running.get(name)
        if task is None:
            claims = self._read(token)
            if len(self._running) >= _MAX_WAITING:
                raise KubernetesFailed(
                    f"{len(self._running)} tokens wait for the API server's word already"
                )
            task = asyncio.create_task(self._ask(name, token, claims), name="token review")
            self._running[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        if known is not None and now < known.grace_until:
            await asyncio.wait({task}, timeout=PATIENCE)
            if not task.done():
                return known.account
        # A caller that goes away ends nobody else's question.
        return await asyncio.shield(task)

    def _ended(self, name: bytes, task: asyncio.Task[Account]) -> None:
        self._running.pop(name, None)
        if not task.cancelled():
            task.exception()

    def _read(self, token: str) -> dict[str, Any]:
        """The claims, unproven. A token that can't be right costs the API server nothing."""
        claims = _claims(token)
        audiences = claims.get("aud")
        meant = [audiences] if isinstance(audiences, str) else audiences
        if isinstance(meant, list) and self._settings.audience not in meant:
            raise _refusal(f"it is not meant for the audience {self._settings.audience!r}")
        return claims

    async def _ask(self, name: bytes, token: str, claims: dict[str, Any]) -> Account:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._settings.audience]},
        }
        try:
            async with self._gate:
                answer = await self._client.call("POST", _PATH, body=body)
        except KubernetesFailed as error:
            self._metrics.token_reviewed("failed")
            now = self._clock()
            known = self._known.get(name)
            if known is not None and now < known.grace_until:
                log.warning("a token that was good goes on to be: %s", error.message)
                # Not asked again at each call: a server that hangs would slow down every file.
                self._known[name] = replace(known, until=min(now + NEGATIVE_TTL, known.grace_until))
                return known.account
            _remember(self._failed, name, (now + FAILURE_TTL, error.message), _MAX_REFUSED)
            raise
        found = self._judge(answer)
        now = self._clock()
        if isinstance(found, str):
            self._metrics.token_reviewed("refused")
            self._known.pop(name, None)
            _remember(self._refused, name, (now + NEGATIVE_TTL, found), _MAX_REFUSED)
            raise _refusal(found)
        self._metrics.token_reviewed("accepted")
        left = self._left(claims)
        until = now + min(self._settings.identity_ttl, left)
        grace = now + min(self._settings.identity_ttl + self._settings.identity_grace, left)
        _remember(self._known, name, _Known(found, until, grace), _MAX_REMEMBERED)
        return found

    def _left(self, claims: dict[str, Any]) -> float:
        """Seconds until the token's own end."""
        end = claims.get("exp")
        is_number = isinstance(end, int | float) and not isinstance(end, bool)
        return max(0.0, float(end) - self._wall()) if is_number and end is not None else 1e9

    def _judge(self, answer: dict[str, Any]) -> Account | str:
        """The account, or why there is none. What the API server says beside is not repeated."""
        status = answer.get("status")
        if not isinstance(status, dict) or status.get("authenticated") is not True:
            return "the API server doesn't accept it (has it expired, or is its pod gone?)"
        audiences = status.get("audiences")
        if not isinstance(audiences, list) or self._settings.audience not in audiences:
            return f"it is not meant for the audience {self._settings.audience!r}"
        user = status.get("user")
        user = user if isinstance(user, dict) else {}
        username = str(user.get("username") or "")
        namespace, _, account = username.removeprefix(_PREFIX).partition(":")
        if not username.startswith(_PREFIX) or not namespace or not account:
            return "it is no service account's"
        extra = user.get("extra")
        extra = extra if isinstance(extra, dict) else {}
        return Account(
            namespace=namespace,
            service_account=account,
            pod_name=_first(extra.get("authentication.kubernetes.io/pod-name")),
            pod_uid=_first(extra.get("authentication.kubernetes.io/pod-uid")),
        )


def _check_form(token: str) -> None:
    if len(token) > MAX_TOKEN:
        raise _refusal(f"it is longer than {MAX_TOKEN} characters")
    if not _TOKEN.fullmatch(token):
        raise _refusal("it is no bearer token")


def _first(values: object) -> str:
    return str(values[0]) if isinstance(values, list) and values else ""


def _remember(table: dict[bytes, T], name: bytes, value: T, limit: int) -> None:
    table.pop(name, None)
    table[name] = value
    while len(table) > limit:
        del table[next(iter(table))]


def _claims(token: str) -> dict[str, Any]:
    """What a JSON web token says of itself; nothing for one of another kind."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        text = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        found = json.loads(text)
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(why: str) -> CredentialsInvalid:
    return CredentialsInvalid(f"the service-account token can't be used: {why}", hint=_HINT)
