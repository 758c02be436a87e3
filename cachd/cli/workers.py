"""A few threads for a list of calls; the first failure, or an interrupt, stops them all."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATIENCE = 3.0
"""Seconds that threads get to stop. They are daemon threads: one that is stuck in a system call
doesn't keep the process."""


def run_all(calls: Iterable[Callable[[], None]], width: int, stop: threading.Event) -> None:
    """Run every call, at most ``width`` at a time. Raises the first call's failure.

    ``stop`` is set at a failure and at an interrupt, for the calls to look at.
    """
    waiting = iter(calls)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while not stop.is_set():
            with lock:
                call = next(waiting, None)
            if call is None:
                return
            try:
                call()
            except BaseException as error:
                with lock:
                    failures.append(error)
                stop.set()

    threads = [
        threading.Thread(target=work, name=f"transfer-{index}", daemon=True)
        for index in range(width)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive() and not stop.is_set():
                thread.join(0.5)
    except BaseException:
        stop.set()
        raise
    finally:
        if stop.is_set():
            for thread in threads:
                thread.join(PATIENCE / len(threads))
    if failures:
        raise failures[0]
