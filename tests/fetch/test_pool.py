"""When a worker is thought dead."""

from __future__ import annotations

from typing import Any

from cachd.fetch.pool import PING_AFTER, PONG_WITHIN, WorkerHandle, WorkerPool


class Wire:
    """The daemon's end of a channel, that remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, *messages: dict[str, Any]) -> None:
        self.sent.extend(messages)


def test_a_worker_that_was_idle_is_not_dead_when_work_comes() -> None:
    pool = WorkerPool(
        size=1,
        capacity=1,
        share=1,
        idle=60.0,
        stuck_after=60.0,
        setup=dict,
        on_message=lambda worker, message: None,
        on_gone=lambda worker: None,
    )
    wire = Wire()
    worker = WorkerHandle(wire, 1)  # type: ignore[arg-type]
    start = worker.heard
    idle_until = start + 10 * PONG_WITHIN
    assert pool._judge(worker, idle_until) == ""
    worker.tasks.add(1)
    assert pool._judge(worker, idle_until + 1) == ""
    assert wire.sent == []
    assert pool._judge(worker, idle_until + PING_AFTER + 1) == ""
    assert wire.sent == [{"do": "ping"}]
    assert "no sign of life" in pool._judge(worker, idle_until + PONG_WITHIN + 1)
