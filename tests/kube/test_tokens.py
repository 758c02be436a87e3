"""Whose token it is: the real client against a small API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from cachd.errors import CredentialsInvalid, KubernetesFailed
from cachd.kube.client import KubernetesClient
from cachd.kube.tokens import MAX_TOKEN, Account, TokenReviews
from cachd.settings import KubernetesSettings
from tests.kube.jsonserver import OWN_TOKEN
from tests.kube.tokenserver import make_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.kube.tokenserver import TokenServer


class Counts:
    def __init__(self) -> None:
        self.results: Counter[str] = Counter()

    def token_reviewed(self, result: str) -> None:
        self.results[result] += 1


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, reviews: TokenReviews, clock: Clock, counts: Counts) -> None:
        self.review = reviews.review
        self.reviews = reviews
        self.clock = clock
        self.counts = counts


@contextlib.asynccontextmanager
async def asking(tokens: TokenServer, directory: Path, **more: float) -> AsyncIterator[World]:
    file = directory / "own"
    file.write_text(OWN_TOKEN)
    settings = KubernetesSettings(enabled=True, server=tokens.url, token_file=file, **more)
    client = KubernetesClient(settings, {})
    await client.start()
    clock, counts = Clock(), Counts()
    reviews = TokenReviews(client, settings, counts, clock=clock)
    try:
        yield World(reviews, clock, counts)
    finally:
        await reviews.close()
        await client.close()


@pytest.fixture
async def world(tokens: TokenServer, tmp_path: Path) -> AsyncIterator[World]:
    async with asking(tokens, tmp_path, identity_ttl=60, identity_grace=600) as made:
        yield made


async def test_whose_token_it_is(world: World, tokens: TokenServer) -> None:
    bound = tokens.admit("team-a", "runner", pod=("p-0", "uid-0"))
    plain = tokens.admit("team-b", "default")
    assert await world.review(bound) == Account(
        namespace="team-a", service_account="runner", pod_name="p-0", pod_uid="uid-0"
    )
    assert await world.review(plain) == Account(namespace="team-b", service_account="default")
    assert tokens.seen[0]["spec"] == {"token": bound, "audiences": ["cachd"]}


async def test_a_yes_is_remembered_for_a_while(world: World, tokens: TokenServer) -> None:
    token = tokens.admit("a", "b")
    for _ in range(3):
        await world.review(token)
    assert len(tokens.seen) == 1
    world.clock.now += 60
    await world.review(token)
    assert len(tokens.seen) == 2
    # Its pod went: the next question ends it.
    del tokens.statuses[token]
    await world.review(token)
    world.clock.now += 60
    with pytest.raises(CredentialsInvalid, match="doesn't accept"):
        await world.review(token)
    assert token not in repr(vars(world.reviews))


async def test_a_yes_ends_with_the_token(world: World, tokens: TokenServer) -> None:
    token = tokens.admit("a", "b", ends_in=5)
    await world.review(token)
    tokens.is_down = True
    world.clock.now += 5
    with pytest.raises(KubernetesFailed):
        await world.review(token)


async def test_a_no_is_remembered_for_seconds(world: World, tokens: TokenServer) -> None:
    token = make_token("system:serviceaccount:a:b")
    for _ in range(5):
        with pytest.raises(CredentialsInvalid) as caught:
            await world.review(token)
        assert token not in str(caught.value) + caught.value.hint
    assert len(tokens.seen) == 1
    world.clock.now += 5
    with pytest.raises(CredentialsInvalid):
        await world.review(token)
    assert len(tokens.seen) == 2


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": True, "user": {"username": "system:serviceaccount:a:b"}},
        {"authenticated": "true", "audiences": ["cachd"]},
        {"authenticated": True, "audiences": ["cachd"], "user": {"username": "system:node:n1"}},
        {"authenticated": True, "audiences": ["cachd"], "user": {"username": "kube-admin"}},
        {"authenticated": True, "audiences": ["cachd"], "user": None},
        {"authenticated": True, "audiences": ["cachd"],
         "user": {"username": "system:serviceaccount:a"}},
        {"authenticated": False, "audiences": ["cachd"],
         "user": {"username": "system:serviceaccount:a:b"}},
        {},
    ],
)  # fmt: skip
async def test_what_is_no_yes(world: World, tokens: TokenServer, status: dict) -> None:
    token = make_token("system:serviceaccount:a:b")
    tokens.statuses[token] = status
    with pytest.raises(CredentialsInvalid):
        await world.review(token)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("x" * (MAX_TOKEN + 1), "longer"),
        ("a b", "no bearer token"),
        ("ä.b.c", "no bearer token"),
        ("", "no bearer token"),
        (make_token("s", audience="https://kubernetes.default.svc"), "not meant for the audience"),
    ],
)
async def test_what_costs_the_api_server_nothing(
    world: World, tokens: TokenServer, token: str, why: str
) -> None:
    with pytest.raises(CredentialsInvalid, match=why) as caught:
        await world.review(token)
    assert not token or token not in str(caught.value)
    assert tokens.seen == []


async def test_many_callers_ask_once_and_one_that_goes_harms_nobody(
    world: World, tokens: TokenServer
) -> None:
    token = tokens.admit("a", "b")
    tokens.gate.clear()
    asks = [asyncio.create_task(world.review(token)) for _ in range(20)]
    while not tokens.seen:
        await asyncio.sleep(0.01)
    asks[0].cancel()
    await asyncio.gather(asks[0], return_exceptions=True)
    tokens.gate.set()
    found = await asyncio.gather(*asks[1:])
    assert {account.namespace for account in found} == {"a"}
    assert len(tokens.seen) == 1


async def test_a_known_token_outlives_an_api_server_that_is_away(
    world: World, tokens: TokenServer
) -> None:
    known, new = tokens.admit("a", "b"), tokens.admit("a", "c")
    await world.review(known)
    tokens.is_down = True
    for passed in (61, 598):
        world.clock.now += passed
        assert (await world.review(known)).service_account == "b"
    with pytest.raises(KubernetesFailed):
        await world.review(new)
    world.clock.now += 2
    with pytest.raises(KubernetesFailed):
        await world.review(known)
    assert world.counts.results == {"accepted": 1, "failed": 4}


async def test_who_is_known_waits_for_no_api_server_that_hangs(
    world: World, tokens: TokenServer
) -> None:
    known = tokens.admit("a", "b")
    await world.review(known)
    world.clock.now += 61
    tokens.gate.clear()
    for _ in range(2):
        assert (await world.review(known)).service_account == "b"
    while len(tokens.seen) < 2:
        await asyncio.sleep(0.01)
    assert len(tokens.seen) == 2
    tokens.gate.set()


async def test_an_api_server_that_can_not_tell_is_not_asked_at_each_call(
    world: World, tokens: TokenServer
) -> None:
    token = tokens.admit("a", "b")
    tokens.is_down = True
    for _ in range(5):
        with pytest.raises(KubernetesFailed):
            await world.review(token)
    assert world.counts.results == {"failed": 1}
    tokens.is_down = False
    world.clock.now += 1
    assert (await world.review(token)).service_account == "b"


async def test_what_is_remembered_is_bounded(
    world: World, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.kube.tokens._MAX_REMEMBERED", 3)
    monkeypatch.setattr("cachd.kube.tokens._MAX_REFUSED", 3)
    for number in range(5):
        await world.review(tokens.admit("a", f"s{number}"))
        with pytest.raises(CredentialsInvalid):
            await world.review(make_token("x", mark=f"m{number}"))
    assert len(world.reviews._known) == len(world.reviews._refused) == 3
