"""Progress: a line that is redrawn on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, TextIO

from cachd.cli import render

REDRAW = 0.2
HEARTBEAT = 10.0
_BAR_WIDEST = 30
_BAR_NARROWEST = 6


_PHASES = {
    "resolving": "resolving",
    "queued": "queued",
    "progress": "fetching",
    "verifying": "verifying",
}


@dataclass(slots=True)
class State:
    """What is known now. Sizes in bytes, rate in bytes/s, eta in seconds; None: not known."""

    phase: str = "asking"
    bytes: int = 0
    total: int | None = None
    rate: float | None = None
    eta: float | None = None
    files_done: int | None = None
    files_total: int | None = None
    retries: int = 0
    note: str = ""

    def take(self, event: dict[str, Any]) -> None:
        """Bring the state up to date with an event of the daemon's."""
        name = str(event.get("event", ""))
        if name == "retry":
            self.retries += 1
            cause = event.get("cause") or event.get("code") or event.get("message") or "trouble"
            self.note = str(cause)
            return
        # Heartbeats, and what a newer daemon may say, change nothing.
        self.phase = _PHASES.get(name, self.phase)
        if name == "progress":
            self.bytes = int(event.get("bytes") or 0)
            self.total = event.get("total")
            self.rate = event.get("rate")
            self.eta = event.get("eta")
            self.files_done = event.get("files_done")
            self.files_total = event.get("files_total")
        elif name == "queued" and event.get("position") is not None:
            self.note = f"position {event['position']}"


def bar_line(state: State, elapsed: float, width: int, *, plain: bool = False) -> str:
    """One line of at most ``width`` characters. What matters least is left out first."""
    phase = render.printable(state.phase)
    if not state.total:
        pieces = [phase]
        if state.bytes:
            pieces.append(render.size(state.bytes))
            if state.rate is not None:
                pieces.append(render.rate(state.rate))
        pieces.append(render.duration(elapsed))
        if state.note:
            pieces.append(f"({render.printable(state.note)})")
        return "  ".join(pieces)[: max(0, width)]
    share = min(1.0, state.bytes / state.total)
    needed = [phase, f"{int(share * 100):>3}%"]
    optional = [f"{render.size(state.bytes)} of {render.size(state.total)}"]
    if state.rate is not None:
        optional.append(render.rate(state.rate))
    if state.eta is not None:
        optional.append(f"eta {render.duration(state.eta)}")
    if state.files_total:
        optional.append(f"files {state.files_done or 0}/{state.files_total}")
    if state.retries:
        optional.append(render.plural(state.retries, "retry").replace("retrys", "retries"))
    text = "  ".join(needed)
    for piece in optional:
        if len(text) + 2 + len(piece) + _BAR_NARROWEST + 4 > width:
            break
        text += f"  {piece}"
    room = min(_BAR_WIDEST, width - len(text) - 4)
    if room < _BAR_NARROWEST:
        return text[: max(0, width)]
    full = int(share * room)
    done, left = ("#", "-") if plain else ("█", "░")
    return text.replace(phase, f"{phase}  [{done * full}{left * (room - full)}]", 1)


def heartbeat_line(state: State, elapsed: float) -> str:
    """One line for a log."""
    pieces = [render.printable(state.phase)]
    if state.total:
        share = int(min(1.0, state.bytes / state.total) * 100)
        of = f"{render.size(state.bytes)} of {render.size(state.total)} ({share} %)"
        pieces[0] += f" {of}"
    elif state.bytes:
        pieces[0] += f" {render.size(state.bytes)}"
    if state.rate is not None:
        pieces.append(render.rate(state.rate))
    if state.eta is not None:
        pieces.append(f"eta {render.duration(state.eta)}")
    if state.files_total:
        pieces.append(f"{state.files_done or 0} of {render.plural(state.files_total, 'file')}")
    if state.retries:
        pieces.append(f"{state.retries} retried ({render.printable(state.note)})")
    elif state.note:
        pieces.append(render.printable(state.note))
    pieces.append(f"{render.duration(elapsed)} so far")
    return ", ".join(pieces)


class Meter:
    """Bytes done by this process, with a rate over the last seconds. Used by several threads."""

    def __init__(self, display: Display, phase: str, total: int, files: int) -> None:
        self._display = display
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._bytes = 0
        self._files = 0
        display.state = State(phase=phase, total=total, files_total=files, files_done=0)

    @property
    def bytes(self) -> int:
        return self._bytes

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            state = self._display.state
            state.bytes = self._bytes
            elapsed = time.monotonic() - self._started
            if elapsed > 0.5:
                state.rate = self._bytes / elapsed
                left = max(0, (state.total or 0) - self._bytes)
                state.eta = left / state.rate if state.rate else None

    def file_done(self) -> None:
        with self._lock:
            self._files += 1
            self._display.state.files_done = self._files


class Display:
    """Shows ``state`` on standard error until the ``with`` block ends.

    A thread of its own redraws, so that a daemon that says nothing for a while is visible as such.
    """

    def __init__(
        self, *, stream: TextIO | None = None, quiet: bool = False, heartbeat: float = HEARTBEAT
    ) -> None:
        """``heartbeat``: seconds between lines where there is no terminal; 0 for none."""
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._is_terminal = self._stream.isatty()
        self._pause = REDRAW if self._is_terminal else heartbeat or None
        encoding = (getattr(self._stream, "encoding", "") or "").lower()
        self._plain = not encoding.startswith("utf")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._started = time.monotonic()
        self._drawn = 0
        self.state = State()

    def __enter__(self) -> Display:
        self._started = time.monotonic()
        if not self._quiet:
            self._thread = threading.Thread(target=self._run, name="display", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(2.0)
        with self._lock:
            self._erase()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._quiet:
            return
        with self._lock:
            self._erase()
            self._write(f"cachd: {render.printable(text)}\n")

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            elapsed = time.monotonic() - self._started
            with self._lock:
                if self._is_terminal:
                    width = shutil.get_terminal_size().columns - 1
                    line = bar_line(self.state, elapsed, width, plain=self._plain)
                    self._write("\r" + line + " " * max(0, self._drawn - len(line)))
                    self._drawn = len(line)
                else:
                    self._write(f"cachd: {heartbeat_line(self.state, elapsed)}\n")

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._quiet = True
