"""The resolver: a real process, its start, its end, and its accidents."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cachd.channel import DECODE_HERE, ChildChannel, ChildStreams
from cachd.credentials import SourceOptions
from cachd.errors import (
    CredentialsInvalid,
    InternalError,
    NotFound,
    OriginUnreachable,
    PatternInvalid,
    SchemeUnknown,
    WorkerDied,
)
from cachd.model import Auth
from cachd.sources.base import SourceRequest
from cachd.sources.registry import GROUP, Registry
from cachd.sources.resolver import Resolver
from tests.sources.asking import KEYS, replace, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.servers.s3 import S3Server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def _third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that adds ``test://`` by its entry point."""
    metadata = tmp_path / "site/third_party-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\ntest = tests.sources.slow_source:TestSource\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{metadata.parent}:{ROOT}")
    monkeypatch.syspath_prepend(str(metadata.parent))


@contextlib.asynccontextmanager
async def running(**given: Any) -> AsyncIterator[Resolver]:
    resolver = Resolver(settings(**given), environ={})
    await resolver.start()
    try:
        yield resolver
    finally:
        await resolver.stop()


async def hurry(resolver: Resolver, seconds: float) -> None:
    """The limit of what is asked from now on, of a process that runs: its start takes as long as
    the machine likes."""
    await resolver.resolve(ask(resolver, "test://now"))
    resolver._settings = settings(resolve_timeout=seconds)


def ask(resolver: Resolver, uri: str, **options: Any) -> SourceRequest:
    location = resolver.locate(uri, SourceOptions(**options))
    return SourceRequest(location=location, identity="caller", credentials=KEYS)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_s3_through_the_process(seaweed: S3Server) -> None:
    bucket = seaweed.make_bucket({"m/x": b"1", "m/y": b"22"})
    async with running() as resolver:
        assert resolver.pid is None
        request = ask(resolver, f"cachd+s3://{bucket}/m", endpoint=seaweed.endpoint)
        assert request.location.uri == f"s3://{bucket}/m"
        plans = await asyncio.gather(*(resolver.resolve(request) for _ in range(20)))
        assert {p.revision for p in plans} == {plans[0].revision}
        assert plans[0].auth.secret_key == KEYS.secret_key
        await resolver.probe(request, "x")
        with pytest.raises(NotFound):
            await resolver.probe(request, "z")
        assert (await resolver.authorize(request)).access_key == KEYS.access_key
        bad = replace(request, credentials=replace(KEYS, secret_key="wrong-secret"))
        with pytest.raises(CredentialsInvalid) as caught:
            await resolver.resolve(bad)
        assert caught.value.hint
        assert "wrong-secret" not in str(caught.value.to_wire())
        pid = resolver.pid
        assert pid is not None
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert KEYS.secret_key.encode() not in command
    assert not is_running(pid)


async def test_what_is_refused_before_any_process() -> None:
    async with running() as resolver:
        with pytest.raises(SchemeUnknown):
            resolver.locate("ftp://b/m", SourceOptions())
        request = replace(ask(resolver, "s3://bucket/m"), allow=("",))
        with pytest.raises(PatternInvalid):
            await resolver.resolve(request)
        assert resolver.pid is None


@pytest.mark.usefixtures("_third_party")
async def test_a_third_partys_scheme() -> None:
    async with running() as resolver:
        assert "test" in resolver.schemes
        request = ask(resolver, "test://now")
        plan = await resolver.resolve(request)
        assert plan.files[0].path == str(resolver.pid)
        assert await resolver.authorize(request) == Auth(kind="headers", headers=(("a", "b"),))
        await resolver.probe(request, "x")


@pytest.mark.usefixtures("_third_party")
async def test_idle_process_ends_and_comes_back() -> None:
    async with running(resolver_idle=0.2) as resolver:
        first = (await resolver.resolve(ask(resolver, "test://now"))).files[0].path
        assert first == str(resolver.pid)
        await until(lambda: resolver.pid is None)
        await until(lambda: not is_running(int(first)))
        second = (await resolver.resolve(ask(resolver, "test://now"))).files[0].path
        assert second != first


@pytest.mark.usefixtures("_third_party")
async def test_cancelled_calls_end_in_the_process(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with running() as resolver:
        call = asyncio.create_task(resolver.resolve(ask(resolver, f"test://sleep{mark}")))
        await until(mark.exists)
        pid = resolver.pid
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(mark.with_name("mark.cancelled").exists)
        await resolver.resolve(ask(resolver, "test://now"))
        assert resolver.pid == pid


@pytest.mark.usefixtures("_third_party")
async def test_a_cancelled_caller_harms_no_other() -> None:
    """The first caller starts the process, and goes away while it starts."""
    async with running() as resolver:
        first = asyncio.create_task(resolver.resolve(ask(resolver, "test://now")))
        second = asyncio.create_task(resolver.resolve(ask(resolver, "test://now")))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).files[0].path == str(resolver.pid)
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.usefixtures("_third_party")
async def test_time_limit(tmp_path: Path) -> None:
    async with running() as resolver:
        await hurry(resolver, 1.0)
        with pytest.raises(OriginUnreachable, match="within 1 s"):
            await resolver.resolve(ask(resolver, f"test://sleep{tmp_path}/mark"))


@pytest.mark.usefixtures("_third_party")
async def test_a_stuck_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachd.sources.resolver.CANCEL_PATIENCE", 0.3)
    async with running() as resolver:
        await hurry(resolver, 1.0)
        pid = resolver.pid
        assert pid is not None
        with pytest.raises(OriginUnreachable):
            await resolver.resolve(ask(resolver, "test://hang"))
        await until(lambda: not is_running(pid))
        resolver._settings = settings()
        assert (await resolver.resolve(ask(resolver, "test://now"))).files[0].path != str(pid)


@pytest.mark.usefixtures("_third_party")
async def test_a_death_is_made_good_once(tmp_path: Path) -> None:
    async with running() as resolver:
        request = ask(resolver, f"test://die-once{tmp_path}/mark")
        assert (await resolver.resolve(request)).revision == "00"
        with pytest.raises(WorkerDied):
            await resolver.resolve(ask(resolver, "test://die"))
        assert (await resolver.resolve(ask(resolver, "test://now"))).revision == "00"


@pytest.mark.usefixtures("_third_party")
async def test_killed_between_calls() -> None:
    async with running() as resolver:
        await resolver.resolve(ask(resolver, "test://now"))
        pid = resolver.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        plan = await resolver.resolve(ask(resolver, "test://now"))
        assert plan.files[0].path != str(pid)


@pytest.mark.usefixtures("_third_party")
async def test_defects_of_a_source_keep_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    async with running() as resolver:
        with pytest.raises(InternalError, match="RuntimeError") as caught:
            await resolver.resolve(ask(resolver, "test://raise"))
    assert KEYS.secret_key not in str(caught.value.to_wire())
    logged = capfd.readouterr().err
    assert "slow_source.py" in logged
    assert KEYS.secret_key not in logged


@pytest.mark.usefixtures("_third_party")
async def test_stopped_while_asked(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    resolver = Resolver(settings(), environ={})
    await resolver.start()
    call = asyncio.create_task(resolver.resolve(ask(resolver, f"test://sleep{mark}")))
    await until(mark.exists)
    pid = resolver.pid
    started = time.monotonic()
    await resolver.stop()
    assert time.monotonic() - started < 20
    with pytest.raises(WorkerDied):
        await call
    assert pid is not None
    assert not is_running(pid)
    with pytest.raises(WorkerDied):
        await resolver.resolve(ask(resolver, "test://now"))


async def test_the_process_ends_with_its_daemon() -> None:
    """kill -9 of the daemon closes the channel, which is all that its child needs."""
    code = (
        "import asyncio, sys\n"
        "from cachd.channel import Child\n"
        "from cachd.settings import SourcesSettings\n"
        "async def main():\n"
        "    child = await Child.spawn('cachd.sources.process')\n"
        "    child.send({'settings': SourcesSettings().model_dump_json()})\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert daemon.stdout is not None
    pid = int(await asyncio.wait_for(daemon.stdout.readline(), 20))
    assert is_running(pid)
    daemon.kill()
    await daemon.wait()
    await until(lambda: not is_running(pid))


async def test_the_process_is_clean_in_development_mode(seaweed: S3Server) -> None:
    """No unclosed session, no task left, no warning: everything that Python would complain of."""
    bucket = seaweed.make_bucket({"m/x": b"1"})
    code = (
        "import asyncio, os\n"
        "from cachd.sources.resolver import Resolver\n"
        "from cachd.settings import SourcesSettings\n"
        "from cachd.credentials import Credentials, SourceOptions\n"
        "from cachd.sources.base import SourceRequest\n"
        "async def main():\n"
        "    r = Resolver(SourcesSettings(), environ={})\n"
        f"    at = r.locate('s3://{bucket}/m', SourceOptions(endpoint='{seaweed.endpoint}'))\n"
        "    keys = Credentials(access_key=os.environ['K'], secret_key=os.environ['S'])\n"
        "    await r.start()\n"
        "    for _ in range(3):\n"
        "        q = SourceRequest(location=at, identity='caller', credentials=keys)\n"
        "        await r.resolve(q)\n"
        "    await r.stop()\n"
        "asyncio.run(main())\n"
    )
    environ = {
        **os.environ,
        "K": KEYS.access_key,
        "S": KEYS.secret_key,
        "PYTHONDEVMODE": "1",
        "PYTHONWARNINGS": "default",
    }
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env=environ
    )
    _, errors = await asyncio.wait_for(daemon.communicate(), 50)
    ours = [line for line in errors.decode().splitlines() if "site-packages" not in line]
    assert daemon.returncode == 0, errors.decode()
    assert not [line for line in ours if "Warning" in line or "Error" in line], errors.decode()


@pytest.mark.usefixtures("_third_party")
@pytest.mark.parametrize("count", [0, 1, 1999, 2000, 2001, 4000, 5001])
async def test_long_plans_come_in_pieces(count: int) -> None:
    async with running() as resolver:
        one, two = await asyncio.gather(
            resolver.resolve(ask(resolver, f"test://many/{count}")),
            resolver.resolve(ask(resolver, "test://many/3")),
        )
    assert [file.path[201:] for file in one.files] == [f"{n:07}" for n in range(count)]
    assert len(two.files) == 3


@pytest.mark.usefixtures("_third_party")
async def test_a_long_plan_leaves_the_loop_to_others() -> None:
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            # The loop's own CPU time: what others do to a busy machine is not judged.
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)

    async with running() as resolver:
        ticking = asyncio.create_task(tick())
        plan = await resolver.resolve(ask(resolver, "test://many/30000"))
        await asyncio.sleep(0.05)  # for one more tick, which sees what the last step took
        ticking.cancel()
    assert len(plan.files) == 30_000
    assert longest < 0.1


async def test_long_messages_keep_their_place() -> None:
    ours, theirs = socket.socketpair()
    channel = ChildChannel(theirs.detach())
    reader, writer = await asyncio.open_connection(sock=ours)
    text = "x" * (2 * DECODE_HERE)
    streams = ChildStreams(reader, writer)
    sending = asyncio.create_task(
        asyncio.to_thread(lambda: channel.send({"n": 0, "t": text}, {"n": 1}, {"n": 2, "t": text}))
    )
    assert [(await streams.receive() or {})["n"] for _ in range(3)] == [0, 1, 2]
    await sending
    await streams.close()
    assert await asyncio.to_thread(channel.receive) is None
    channel._file.close()
    channel._socket.close()


def test_entry_point_of_the_fixture() -> None:
    point = EntryPoint("test", "tests.sources.slow_source:TestSource", GROUP)
    assert Registry([point]).source("test").schemes == ("test",)
