"""The real daemon, which dies where it is told to: ``python -m tests.crash.serve_dying``.

Configured as ``cachd serve`` is by its environment, and by four names more:

- ``DYING_ARMED``: a file. When it holds ``STEP|COUNT|DEED``, the COUNT-th time that the store
  comes to STEP the deed is done, in the very thread: ``kill`` (SIGKILL), or ``power`` (the
  file system of the root is shut down as by a power loss, then SIGKILL).
- ``DYING_BOOT``: the boot id to believe in instead of the kernel's.
- ``DYING_SUMS``: where to write the index's sums and their recount on SIGUSR1, as JSON.

No such thing is in the daemon itself: the store takes a callback for its steps (``on_step``), and
here is one that kills.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import cachd.daemon
from cachd.settings import load_settings
from cachd.store import startup
from cachd.store.store import Store

_IOC_SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32): XFS_IOC_GOINGDOWN, which ext4 and f2fs know too."""
_NO_LOG_FLUSH = 2


def cut_power(path: Path) -> None:
    """Nothing that isn't on the disk of ``path`` now will ever be. What ``xfs_io -x -c shutdown``
    does."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


class Executioner:
    def __init__(self, order: Path, root: Path) -> None:
        self._order = order
        self._root = root
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str, /) -> None:
        with self._lock:
            try:
                step, count, deed = self._order.read_text().split("|")
            except FileNotFoundError:
                self._counts.clear()
                return
            if name != step:
                return
            self._counts[name] = self._counts.get(name, 0) + 1
            if self._counts[name] < int(count):
                return
            if deed == "power":
                cut_power(self._root)
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()  # never comes back from here


def main() -> int:
    settings = load_settings(None, os.environ)
    order = Path(os.environ["DYING_ARMED"])
    boot = os.environ.get("DYING_BOOT")
    sums = os.environ.get("DYING_SUMS")
    stores: list[Store] = []

    class Watched(Store):
        def __init__(self, root: Path, *args: Any, **kwargs: Any) -> None:
            super().__init__(root, *args, on_step=Executioner(order, root), **kwargs)
            stores.append(self)

    def show_sums(*_: object) -> None:
        opened = stores[0]._open
        assert opened is not None
        index = opened.context.index
        text = json.dumps({"sums": index.sums(), "recount": index.recount()})
        temporary = Path(f"{sums}.tmp")
        temporary.write_text(text)
        temporary.rename(Path(str(sums)))

    cachd.daemon.Store = Watched  # type: ignore[misc]
    if boot:
        startup.boot_id = lambda: boot
    if sums:
        signal.signal(signal.SIGUSR1, show_sums)
    return asyncio.run(cachd.daemon.serve(settings))


if __name__ == "__main__":
    sys.exit(main())
