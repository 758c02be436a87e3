"""Free loopback ports, for servers that must be told theirs."""

from __future__ import annotations

import os
import random
import socket
from itertools import count
from pathlib import Path

LOOPBACK = "127.0.0.1"
_FIRST = 12_000


def _numbers() -> list[int]:
    """Ports below those that the kernel gives to whoever wants any, a connection too: of them one
    would be taken now and then between its choice and its use. A share for each of xdist's
    workers, begun somewhere in it, for whatever else runs on this machine."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    end = min(int(text.split()[0]), 30_000)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = list(range(_FIRST + number, end, workers))
    begin = random.SystemRandom().randrange(max(len(share), 1))
    return share[begin:] + share[:begin]


_SHARE = _numbers()
_given = count()


def free_ports(number: int) -> list[int]:
    """``number`` different ports that nobody listens on now."""
    found: list[int] = []
    while len(found) < number:
        # Where the kernel gives all of them away there are none but its own.
        wanted = _SHARE[next(_given) % len(_SHARE)] if _SHARE else 0
        with socket.socket() as each:
            try:
                each.bind((LOOPBACK, wanted))
            except OSError:
                continue
            port = each.getsockname()[1]
        if port not in found:
            found.append(port)
    return found
