"""The composition root: builds the parts, opens the sockets, waits for a signal, drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from typing import TYPE_CHECKING

from cachd import __version__
from cachd.api.listeners import Listeners
from cachd.api.readonly import ReadonlyRoot
from cachd.cache.access import Proofs
from cachd.cache.cache import Cache
from cachd.cache.events import EventBus
from cachd.cache.freshness import Freshness
from cachd.cache.parts import Parts
from cachd.cache.policy import Policy
from cachd.cache.telling import evictions_teller
from cachd.environment import default_root, default_socket
from cachd.fetch.mover import Mover
from cachd.fetch.proxy import ProxyRules
from cachd.kube.cgroup import PodCgroups
from cachd.kube.client import KubernetesClient, node_of
from cachd.kube.events import Reporter
from cachd.kube.labels import CHANGES, Labels
from cachd.kube.pods import NoProvider
from cachd.kube.podwatch import PodWatch
from cachd.kube.tokens import TokenReviews
from cachd.logs import configure_logging
from cachd.metrics import Metrics
from cachd.sources.resolver import Resolver
from cachd.store.store import Store
from cachd.store.units import show_size

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from cachd.kube.pods import PodProvider
    from cachd.settings import Settings

log = logging.getLogger("cachd.daemon")

_FORCED_EXIT = 130


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises CachdError if it can't start.

    The health listener comes first, so that probes see a live daemon that is not ready yet; the
    sockets come last, when the root is ours: a standby never takes the place of its predecessor.
    """
    configure_logging(settings.log)
    _raise_descriptor_limit()
    # Children read the proxies from this environment: a bad one is said here, once.
    ProxyRules.from_environment(os.environ)
    stopping = _catch_signals()
    root = settings.store.root or default_root()
    metrics = Metrics()
    policy = Policy(settings.access, metrics)
    await policy.load()
    async with contextlib.AsyncExitStack() as stack:
        events = EventBus()
        store = Store(
            root,
            settings.store,
            settings.leases,
            metrics=metrics,
            on_evicted=evictions_teller(events),
        )
        resolver = Resolver(settings.sources, metrics=metrics)
        mover = Mover(
            settings.fetch,
            settings.sources.archive,
            settings.sources.egress,
            metrics=metrics,
        )
        kubernetes = None
        if settings.kubernetes.enabled:
            kubernetes = KubernetesClient(settings.kubernetes, os.environ)
            await kubernetes.start()
            stack.push_async_callback(kubernetes.close)
        provider = _provider(settings, kubernetes)
        cache = Cache(
            Parts(
                settings=settings,
                store=store,
                resolver=resolver,
                mover=mover,
                metrics=metrics,
                policy=policy,
                proofs=Proofs(settings.access.probe_ttl),
                freshness=Freshness(settings.freshness.interval),
                events=events,
                provider=provider,
            )
        )
        accounts = None
        if kubernetes is not None:
            accounts = TokenReviews(kubernetes, settings.kubernetes, metrics)
            stack.push_async_callback(accounts.close)
        twin = settings.store.readonly_root
        listeners = Listeners(
            cache,
            settings,
            metrics,
            accounts=accounts,
            readonly=ReadonlyRoot(store.root, twin) if twin is not None else None,
        )
        stack.push_async_callback(listeners.close)
        await listeners.open_health()
        policy.start()
        stack.push_async_callback(policy.close)
        _on_hangup(policy.reload)
        if not await _until(store.open(), stopping):
            return 0
        stack.push_async_callback(store.close)
        await resolver.start()
        stack.push_async_callback(resolver.stop)
        await mover.start()
        stack.push_async_callback(mover.stop)
        await provider.start()
        stack.push_async_callback(provider.close)
        if kubernetes is not None:
            tell_cluster(stack, kubernetes, settings, cache, metrics)
        cache.start()
        stack.push_async_callback(cache.close)
        pods, administrators = socket_paths(settings)
        await listeners.open_sockets(pods, administrators)
        log.info(
            "cachd %s is ready: root %s, socket %s, administrators' socket %s, quota %s",
            __version__,
            root,
            pods,
            administrators,
            _quota(store),
        )
        await stopping.wait()
        log.info("draining: no new asks, fetches stop and keep their journals")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_timeout):
                await cache.drain()
                await listeners.drain()
    log.info("stopped")
    return 0


def tell_cluster(
    stack: contextlib.AsyncExitStack,
    client: KubernetesClient,
    settings: Settings,
    cache: Cache,
    metrics: Metrics,
) -> None:
    """Events and labels of the node, where they are switched on. Raises ConfigInvalid."""
    wanted = settings.kubernetes
    if not wanted.events and not wanted.node_labels:
        return
    node = node_of(wanted, os.environ, "its events and labels")
    bus = cache.parts.events
    tasks = []
    if wanted.events:
        reporter = Reporter(client, node, metrics)
        tasks.append(asyncio.create_task(reporter.run(bus.follow()), name="kubernetes-events"))
    if wanted.node_labels:
        labels = Labels(client, node, wanted.node_labels, cache.uris, metrics)
        tasks.append(asyncio.create_task(labels.run(), name="kubernetes-labels"))
        tasks.append(asyncio.create_task(_notice(bus, labels), name="kubernetes-changes"))
    stack.push_async_callback(_end, tasks)


async def _notice(bus: EventBus, labels: Labels) -> None:
    async for item in bus.follow():
        if item["event"] in CHANGES:
            labels.changed()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def socket_paths(settings: Settings) -> tuple[Path, Path]:
    """The pods' socket and the administrators'."""
    pods = settings.listen.socket or default_socket()
    return pods, settings.listen.admin_socket or pods.with_name("admin.sock")


def _provider(settings: Settings, kubernetes: KubernetesClient | None) -> PodProvider:
    """Who tells which pods are alive. Raises ConfigInvalid."""
    if settings.leases.provider == "kubernetes" and kubernetes is not None:
        return PodWatch(kubernetes, node_of(settings.kubernetes, os.environ, "leases.provider"))
    if settings.leases.provider == "cgroup":
        return PodCgroups(settings.leases.cgroup_root, own_pod=os.environ.get("POD_UID", ""))
    return NoProvider()


def _quota(store: Store) -> str:
    """The quota for the log; one that the volume can't hold is worth a warning."""
    usage = store.usage()
    if usage.quota <= usage.volume_size:
        return show_size(usage.quota)
    log.warning(
        "store.quota is %s, and the volume has %s: the volume and store.free_floor are the limit",
        show_size(usage.quota),
        show_size(usage.volume_size),
    )
    return f"{show_size(usage.volume_size)} (the whole volume)"


def _raise_descriptor_limit() -> None:
    """A caller that waits holds a connection: the soft limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _catch_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(_FORCED_EXIT)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stopping


def _on_hangup(reload: Callable[[], Coroutine[None, None, None]]) -> None:
    """SIGHUP reads again what can change while the daemon runs."""
    running: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        task = asyncio.get_running_loop().create_task(reload())
        running.add(task)
        task.add_done_callback(running.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_signal)


async def _until(opening: object, stopping: asyncio.Event) -> bool:
    """Await ``opening`` unless a signal comes first (a standby waits for long)."""
    task = asyncio.ensure_future(opening)  # type: ignore[call-overload]
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        await task
        return True
    finally:
        stop.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
