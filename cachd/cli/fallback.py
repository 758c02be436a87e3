"""A model without the node's daemon: by a daemon of this pull's own, when told to.

It is the same code with the same checks, retries and verification, in a process of its own whose
root is a hidden directory inside the destination, so that its files become the destination's by a
rename. Nothing is shared and nothing of it stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from cachd.cli import places
from cachd.cli.asking import COPY_LEASE_TTL, ask, own_holder
from cachd.cli.client import Client
from cachd.cli.manifest import fetch_wanted
from cachd.cli.materialise import Materialised, Materialiser
from cachd.cli.patience import is_passing
from cachd.cli.staging import Staging
from cachd.errors import CachdError, DaemonUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cachd.cli.ambient import Passes
    from cachd.cli.metadata_file import MetadataFile
    from cachd.cli.progress import Display

START_TIMEOUT = 60.0
"""Seconds for the daemon to start, on a slow disk and few CPU shares."""

END_TIMEOUT = 20.0

_SETTINGS = {
    # All of the destination's volume is the model's: nobody else's space is looked after.
    "CACHD_STORE_QUOTA": "100%",
    "CACHD_STORE_FREE_FLOOR": "0",
    "CACHD_STORE_INODE_FLOOR": "0.01",
    "CACHD_SCRUB_INTERVAL": "0",
    # One worker bounds the memory; its connections are what makes it quick.
    "CACHD_FETCH_WORKERS": "1",
    "CACHD_DRAIN_TIMEOUT": "2",
    "CACHD_LOG_LEVEL": "warning",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class PrivateDaemon:
    """A daemon whose root lies in ``destination`` while the ``with`` block runs."""

    def __init__(
        self, destination: Path, environ: Mapping[str, str] = os.environ, *, lend: bool = True
    ) -> None:
        """``lend``: what the environment holds serves the pull as the daemon's own identity."""
        self._staging = Staging(destination)
        self._lend = lend
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Client:
        self._staging.__enter__()
        try:
            return self._start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._staging.__exit__()

    def _start(self) -> Client:
        home = self._staging.tree
        sockets = home / "run"
        sockets.mkdir()
        # A socket's path is short, a destination's may be long: the directory's descriptor is both.
        directory = os.open(sockets, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        own = {name: v for name, v in self._environ.items() if not name.startswith("CACHD_")}
        settings = {
            **_SETTINGS,
            "CACHD_ACCESS_TRUST_OWN_UID": str(self._lend).lower(),
            "CACHD_STORE_ROOT": str(home / "root"),
            "CACHD_SOCKET": f"/proc/self/fd/{directory}/s",
            "TMPDIR": str(home),
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cachd.cli.private"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**own, **settings},
                pass_fds=(directory,),
            )
        finally:
            os.close(directory)
        client = Client(sockets / "s")
        self._wait_ready(client)
        return client

    def _wait_ready(self, client: Client) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                client.call("GET", "/readyz")
                return
            except CachdError as error:
                is_over = self._process.poll() is not None
                if is_over or time.monotonic() > deadline or not is_passing(error):
                    raise DaemonUnreachable(
                        "the model can't be fetched here either: cachd doesn't start in "
                        f"{self._staging.destination}",
                        hint="the lines above say why; it takes 220 MiB of memory and a "
                        "volume that may be written",
                        reason="fallback",
                    ) from error
            time.sleep(0.05)


def fetch_here(
    passes: Passes,
    destination: Path,
    display: Display,
    *,
    timeout: float | None,
    verify: bool,
    forward: bool,
    place: Callable[[Path, dict[str, Any]], AbstractContextManager[Path]],
    metadata: MetadataFile | None = None,
) -> tuple[dict[str, Any], Materialised]:
    """The answer of a daemon of our own, and how its files came; ``forward`` False: without any
    identity of this environment. ``place`` says where in ``destination`` the files of an answer
    belong. Raises what it says."""
    lease = {"holder": own_holder(), "ttl": COPY_LEASE_TTL}
    passes.set(lease=None, view=None)
    with PrivateDaemon(destination, lend=forward) as client:
        if places.is_memory(destination):
            plan = client.call("POST", "/v1/plan", passes.body())
            note = places.check_memory(destination, int(plan["needed"]))
            if note:
                display.say(note)
        passes.set(lease=lease)
        answer = ask(client, passes, display, wait_daemon=0.0, timeout=timeout)
        with place(destination, answer) as folder:
            run = Materialiser(
                client, answer, folder, display, move=True, verify=verify, metadata=metadata
            )
            entries = metadata is not None
            done = run.run(fetch_wanted(client, answer, blocks=verify, entries=entries))
    return {**answer, "path": str(destination), "fallback": True}, done
