"""Commands as a person would type them: shown, run for real, their output shown."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from process import Failure

if TYPE_CHECKING:
    from pathlib import Path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FRAME_INTERVAL = 0.7
LIMIT = 90
"""Seconds that one command may take."""


@dataclass(frozen=True)
class Ran:
    """A command that ended with status 0: what it printed, and how long it took (seconds)."""

    output: str
    seconds: float


class Shell:
    """Runs commands in ``directory``. ``cachd`` means the one beside this Python."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._directory = directory
        self._environ = environ
        self._is_terminal = sys.stdout.isatty()

    def heading(self, text: str) -> None:
        bold, plain = ("\x1b[1m", "\x1b[0m") if self._is_terminal else ("", "")
        print(f"\n{bold}== {text}{plain}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def run(self, *command: str, show_output: bool = True, shown: str = "") -> Ran:
        """Run and show. Raises Failure with what it printed if it doesn't end with status 0."""
        self._show(shown or shlex.join(command))
        ran = self._run(command)
        if show_output:
            self.say(ran.output.rstrip())
        return ran

    def ask(self, *command: str) -> dict[str, Any]:
        """The JSON that a command prints; nothing is shown."""
        return dict(json.loads(self._run(command).output))

    def _run(self, command: tuple[str, ...]) -> Ran:
        start = time.monotonic()
        try:
            done = subprocess.run(
                self._resolve(command),
                cwd=self._directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{command[0]} took longer than {LIMIT} s") from error
        seconds = time.monotonic() - start
        if done.returncode != 0:
            raise Failure(
                f"{shlex.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return Ran(done.stdout, seconds)

    def run_on_terminal(self, *command: str) -> Ran:
        """Run on a terminal of its own, so that it shows what it shows to a person.

        Where our own output is no terminal, a frame of the progress bar is printed now and then.
        """
        self._show(shlex.join(command))
        ours, theirs = pty.openpty()
        columns = min(shutil.get_terminal_size((100, 24)).columns, 120)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        start = time.monotonic()
        try:
            process = subprocess.Popen(
                self._resolve(command),
                cwd=self._directory,
                env={"TERM": "xterm-256color", **self._environ},
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            output = self._relay(ours, start + LIMIT)
            status = process.wait(LIMIT)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            os.close(ours)
        if status != 0:
            raise Failure(f"{shlex.join(command)}: status {status}\n{_plain(output)}")
        return Ran(_plain(output), time.monotonic() - start)

    def _relay(self, descriptor: int, deadline: float) -> str:
        output, pending, shown_at = "", "", 0.0
        while time.monotonic() < deadline:
            try:
                data = os.read(descriptor, 65536)
            except OSError:  # EIO: the other end is closed
                data = b""
            if not data:
                break
            text = data.decode(errors="replace")
            output += text
            if self._is_terminal:
                print(text, end="", flush=True)
                continue
            pending += text
            *frames, pending = re.split(r"[\r\n]+", pending)
            frames = [frame for frame in map(_plain, frames) if frame.strip()]
            if frames and time.monotonic() - shown_at > _FRAME_INTERVAL:
                print(frames[-1], flush=True)
                shown_at = time.monotonic()
                frames = []
            pending = "\n".join([*frames[-1:], pending])
        if _plain(pending).strip():
            print(_plain(pending).strip(), flush=True)
        return output

    def _show(self, command: str) -> None:
        dim, plain = ("\x1b[36m", "\x1b[0m") if self._is_terminal else ("", "")
        print(f"\n{dim}$ {command}{plain}", flush=True)

    @staticmethod
    def _resolve(command: tuple[str, ...]) -> list[str]:
        if command[0] == "cachd":
            return [sys.executable, "-m", "cachd", *command[1:]]
        return list(command)


def has_program(name: str) -> bool:
    return shutil.which(name) is not None


def remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _plain(text: str) -> str:
    return _ESCAPES.sub("", text)
