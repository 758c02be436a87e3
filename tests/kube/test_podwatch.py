"""Which pods are alive, as the API server tells; and what is believed while it doesn't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.errors import ConfigInvalid
from cachd.kube.client import KubernetesClient, node_of
from cachd.kube.pods import decide
from cachd.kube.podwatch import PodTable, PodWatch, is_over, uids_of
from cachd.settings import KubernetesSettings
from tests.kube.apiserver import PODS, ApiServer

STATIC = "0123456789abcdef0123456789abcdef"


async def soon(condition: Callable[[], Awaitable[bool]], timeout: float = 30.0) -> None:
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.02)


async def verdict(watch: PodWatch, uid: str) -> str:
    return (await watch.look(frozenset({uid})))[uid]


async def until(watch: PodWatch, uid: str, wanted: str) -> None:
    async def is_so() -> bool:
        return await verdict(watch, uid) == wanted

    await soon(is_so)


@pytest.fixture
async def watch(api: ApiServer) -> AsyncIterator[PodWatch]:
    settings = KubernetesSettings(
        enabled=True, server=api.url, token_file=api.token_file, ca_file=api.ca
    )
    client = KubernetesClient(settings, {})
    await client.start()
    one = PodWatch(client, "node-1")
    await one.start()
    yield one
    await one.close()
    await client.close()


async def seen(watch: PodWatch) -> None:
    async def is_so() -> bool:
        return not watch.complaint()

    await soon(is_so)


async def test_pods_come_and_go(api: ApiServer, watch: PodWatch) -> None:
    old, other = api.add("old"), api.add("other", node="node-2")
    await until(watch, old, "alive")
    new = api.add("new")
    await until(watch, new, "alive")
    await until(watch, other, "gone")
    api.delete("old")
    await until(watch, old, "gone")
    assert await verdict(watch, new) == "alive"
    assert (watch.answer_age() or 0.0) < 30


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_pod_whose_containers_have_all_ended_is_gone(
    api: ApiServer, watch: PodWatch, phase: str
) -> None:
    uid = api.add("job")
    await until(watch, uid, "alive")
    api.set_phase("job", phase)
    await until(watch, uid, "gone")


async def test_a_static_pod_is_known_by_the_uid_that_it_has_on_its_node(
    api: ApiServer, watch: PodWatch
) -> None:
    api.add("static", annotations={"kubernetes.io/config.mirror": STATIC})
    await until(watch, STATIC, "alive")
    api.delete("static")
    await until(watch, STATIC, "gone")


async def test_a_pod_that_was_born_a_moment_ago_is_found(api: ApiServer, watch: PodWatch) -> None:
    await seen(watch)
    api.cut()
    uid = api.add("new")
    assert await watch.find(uid) == "alive"
    assert await watch.find("nobody") == "gone"


async def test_nothing_is_gone_while_the_server_is_away(api: ApiServer, watch: PodWatch) -> None:
    uid = api.add("pod")
    await until(watch, uid, "alive")
    api.stop()

    async def is_told() -> bool:
        return bool(watch.complaint())

    await soon(is_told)
    assert "node-1" in watch.complaint()
    assert await verdict(watch, uid) == "alive"
    assert await verdict(watch, "born-meanwhile") == "unknown"
    assert await watch.find("born-meanwhile") == "unknown"
    api.start()
    born = api.add("born")
    await until(watch, born, "alive")
    assert watch.complaint() == ""


async def test_who_went_while_nobody_watched_is_gone_afterwards(
    api: ApiServer, watch: PodWatch
) -> None:
    gone, stays = api.add("gone"), api.add("stays")
    await until(watch, gone, "alive")
    api.stop()
    api.delete("gone")
    api.start()
    await until(watch, gone, "gone")
    assert await verdict(watch, stays) == "alive"


async def test_a_watch_that_breaks_off_is_begun_anew(api: ApiServer, watch: PodWatch) -> None:
    uid = api.add("pod")
    await until(watch, uid, "alive")
    for number in range(3):
        api.cut()
        new = api.add(f"pod-{number}")
        await until(watch, new, "alive")


async def test_a_watch_that_the_server_ends_goes_on_where_it_was(
    api: ApiServer, watch: PodWatch
) -> None:
    api.watch_seconds = 1.2
    await seen(watch)
    api.bookmark()
    api.cut()
    lists = 0

    async def has_many() -> bool:
        return sum("watch" in query for _, query in api.seen) >= 4

    await soon(has_many)
    lists = sum("watch" not in query for _, query in api.seen)
    assert lists <= 3
    uid = api.add("late")
    await until(watch, uid, "alive")


async def test_what_is_too_old_is_listed_anew(api: ApiServer, watch: PodWatch) -> None:
    """410 Gone, in mid-stream and as an answer."""
    uid = api.add("pod")
    await until(watch, uid, "alive")
    api.forget()
    api.events.clear()
    api.pods.pop("pod")
    api.cut()
    new = api.add("new")
    await until(watch, new, "alive")
    await until(watch, uid, "gone")


async def test_a_server_that_lost_its_past_is_believed(api: ApiServer, watch: PodWatch) -> None:
    """Restored from a backup: its versions are smaller than what was seen."""
    uid = api.add("pod")
    await until(watch, uid, "alive")
    api.stop()
    api.version, api.events = 3, []
    api.start()
    new = api.add("new")
    await until(watch, new, "alive")


async def test_refusals_are_told_and_got_over(api: ApiServer, watch: PodWatch) -> None:
    uid = api.add("pod")
    await until(watch, uid, "alive")
    token = api.token_file.read_text()
    for status in (403, 500):
        api.status = status
        api.cut()

        async def is_told(status: int = status) -> bool:
            return str(status) in watch.complaint()

        await soon(is_told)
        assert await verdict(watch, uid) == "alive"
        api.status = 0
        await seen(watch)
    api.token_file.write_text("another\n")
    api.cut()
    await until(watch, uid, "alive")
    api.token_file.write_text(token)
    new = api.add("new")
    await until(watch, new, "alive")


async def test_long_lists_come_in_pages(api: ApiServer, watch: PodWatch) -> None:
    api.page = 3
    uids = [api.add(f"pod-{number}") for number in range(10)]
    api.cut()
    await seen(watch)
    for uid in uids:
        await until(watch, uid, "alive")
    assert any("continue" in query for _, query in api.seen)
    assert all(query["fieldSelector"] == "spec.nodeName=node-1" for _, query in api.seen)
    assert {path for path, _ in api.seen} == {PODS}


async def test_uids_that_are_made_up_cost_few_lists(api: ApiServer, watch: PodWatch) -> None:
    await seen(watch)
    before = len(api.seen)
    found = await asyncio.gather(*(watch.find(f"made-up-{number}") for number in range(50)))
    assert set(found) == {"gone"}
    assert len(api.seen) - before <= 5


def test_the_node_must_be_known() -> None:
    assert node_of(KubernetesSettings(), {"NODE_NAME": "a"}, "a test") == "a"
    assert node_of(KubernetesSettings(node_name="b"), {"NODE_NAME": "a"}, "a test") == "b"
    with pytest.raises(ConfigInvalid):
        node_of(KubernetesSettings(), {}, "a test")


# --- what is decided ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["metadata", "status", "spec"]), JSON))
def test_odd_pods_are_nobody(pod: dict[str, Any]) -> None:
    assert isinstance(uids_of(pod), frozenset)
    assert is_over(pod) in (True, False)


def pod_of(uid: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid}, "status": {"phase": "Running"}}


STEPS = st.lists(
    st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "list", "look"]), st.integers(0, 3)),
    max_size=40,
)


@given(STEPS)
def test_nobody_who_lives_is_ever_gone(steps: list[tuple[str, int]]) -> None:
    """Uids are never used twice. Whoever was told to be alive last is alive; whoever is not is gone
    only if that was told, or if a list came after the first question."""
    table, alive, dead, now = PodTable(), set[str](), set[str](), 0.0
    asked = frozenset("0123")
    table.look(asked, now)
    listed = False
    for kind, number in steps:
        now += 1.0
        uid = str(number)
        if kind == "list":
            table.replace([pod_of(each) for each in alive], now)
            listed = True
        elif kind == "look":
            pass
        elif kind == "DELETED":
            alive.discard(uid)
            dead.add(uid)
            table.apply(kind, pod_of(uid))
        elif uid not in dead:
            alive.add(uid)
            table.apply(kind, pod_of(uid))
        for each, verdict in table.look(asked, now).items():
            if each in alive:
                assert verdict == "alive"
            elif verdict == "gone":
                assert each in dead or listed
            if each in dead:
                assert verdict == "gone"


VERDICTS = st.dictionaries(
    st.sampled_from("abcd"), st.sampled_from(["alive", "gone", "unknown"]), max_size=4
)


@given(st.lists(st.tuples(st.floats(0, 10), VERDICTS), max_size=20), st.floats(0, 20))
def test_a_pod_is_over_after_it_was_gone_without_a_break(
    rounds: list[tuple[float, dict[str, Any]]], grace: float
) -> None:
    since: dict[str, float] = {}
    unbroken: dict[str, float] = {}
    now = 0.0
    for wait, verdicts in rounds:
        now += wait
        since, over = decide(since, verdicts, now=now, grace=grace)
        unbroken = {uid: unbroken.get(uid, now) for uid, each in verdicts.items() if each == "gone"}
        assert since == unbroken
        assert set(over) == {uid for uid, begin in unbroken.items() if now - begin >= grace}
