"""``python -m bench.soak --seconds 600``: everything at once, against a real daemon.

Threads ask for models at random and read every byte of what they get, while clients hang up, the
origin resets, stalls and answers 503, models change there, a small quota evicts, leases come and
go, workers are killed, and the daemon is killed (SIGKILL) and stopped (SIGTERM) and started again.
Memory, descriptors and threads of the daemon are sampled. Prints what was done and a verdict; exits
with 1 if an answer was wrong, the daemon was unwell, or it grew.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.harness import Daemon, UnixConnection, call
from tests.origins.fault import Fault, FaultOrigin

MIB = 1 << 20
MODELS = 24
QUOTA = "120MiB"
SETTINGS = {
    "STORE_QUOTA": QUOTA,
    "STORE_FREE_FLOOR": "0",
    "STORE_MIN_IDLE": "0.2",
    "STORE_WATCH_INTERVAL": "0.5",
    "FRESHNESS_INTERVAL": "0.1",
    "FETCH_LINGER": "0.5",
    "FETCH_BACKOFF_BASE": "0.02",
    "FETCH_BACKOFF_MAX": "0.5",
    "FETCH_STALL_WINDOW": "2",
    "FETCH_PART_SIZE": "8MiB",
    "LOG_LEVEL": "info",
    "DRAIN_TIMEOUT": "5",
}
EXPECTED = {408, 409, 429, 499, 502, 503, 504, 507}
"""Statuses that a fault, a full cache or a restart may give; anything else is a violation."""


def body_of(name: int, version: int) -> bytes:
    size = (name * 37_777 + 5_000) if name % 4 else (name + 2) * 700_000
    return hashlib.shake_128(f"{name}/{version}".encode()).digest(size)


class Soak:
    def __init__(self, home: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.origin = FaultOrigin()
        self.daemon = Daemon(home, settings=SETTINGS)
        self.ending = threading.Event()
        self.up = threading.Event()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.versions = dict.fromkeys(range(MODELS), 0)
        self.digests: dict[int, set[str]] = {name: set() for name in range(MODELS)}
        self.samples: list[list[tuple[int, int, int]]] = [[]]
        self.bytes = 0
        self._lock = threading.Lock()

    def note(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def violate(self, what: str) -> None:
        with self._lock:
            self.violations.append(what)
        print(f"VIOLATION: {what}", flush=True)

    def publish(self, name: int) -> None:
        """A new state of a model at its origin."""
        data = body_of(name, self.versions[name])
        self.digests[name].add(hashlib.sha256(data).hexdigest())
        self.origin.put(f"/m{name}.bin", data, Content_Type="application/octet-stream")

    # --- those who ask ------------------------------------------------------------------------

    def ask_on(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self.ending.is_set():
            if not self.up.wait(1):
                continue
            name = int(MODELS * chance.random() ** 2)
            deed = chance.random()
            try:
                if deed < 0.12:
                    self.hang_up(name, chance)
                else:
                    self.ask(name, chance)
            except (OSError, http.client.HTTPException):
                self.note("connections lost with the daemon")

    def ask(self, name: int, chance: random.Random) -> None:
        body: dict[str, Any] = {"uri": self.origin.url(f"/m{name}.bin")}
        body["lease"] = {"holder": "soak", "ttl": 30}
        reply = call(self.daemon.socket, "POST", "/v1/models", body, timeout=60)
        if reply.status != 200:
            self.note(f"answers {reply.status} {reply.json().get('code')}")
            if reply.status not in EXPECTED:
                self.violate(f"m{name}: {reply.status} {reply.body[:300]!r}")
            return
        answer = reply.json()
        self.note(f"answers {answer['result']}")
        self.read(name, answer, chance)
        lease = f"/v1/models/{answer['key']}/leases/{answer['lease']['id']}"
        if chance.random() < 0.9:
            call(self.daemon.socket, "DELETE", lease)
            self.note("leases released")

    def read(self, name: int, answer: dict[str, Any], chance: random.Random) -> None:
        """Every byte, from the disk or over the socket; a lease keeps it from being evicted."""
        if chance.random() < 0.7:
            data = Path(answer["path"], f"m{name}.bin").read_bytes()
        else:
            place = f"/v1/models/{answer['key']}/files/m{name}.bin?revision={answer['revision']}"
            reply = call(self.daemon.socket, "GET", place)
            if reply.status != 200:
                self.violate(f"m{name} can't be read: {reply.status} {reply.body[:300]!r}")
                return
            data = reply.body
        with self._lock:
            self.bytes += len(data)
        if hashlib.sha256(data).hexdigest() not in self.digests[name]:
            self.violate(f"m{name} revision {answer['revision']} has wrong bytes")

    def hang_up(self, name: int, chance: random.Random) -> None:
        connection = UnixConnection(self.daemon.socket, 10)
        body = json.dumps({"uri": self.origin.url(f"/m{name}.bin")}).encode()
        connection.request("POST", "/v1/models", body)
        time.sleep(chance.random() * 0.1)
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        self.note("clients that hung up")

    # --- what goes wrong ----------------------------------------------------------------------

    def disturb(self) -> None:
        kinds = ("reset", "close", "stall", "status", "garbage", "etag", "drip")
        while not self.ending.wait(self.random.uniform(0.05, 0.4)):
            name = self.random.randrange(MODELS)
            deed = self.random.random()
            if deed < 0.55:
                kind = self.random.choice(kinds)
                fault = Fault(kind, after=self.random.randrange(100_000), seconds=1.5, status=503)
                if kind == "drip":
                    fault.seconds, fault.chunk = 0.02, 65536
                self.origin.fault(f"/m{name}.bin", fault, times=self.random.randint(1, 3))
                self.note(f"origin faults: {kind}")
            elif deed < 0.65:
                self.versions[name] += 1
                self.publish(name)
                self.note("models changed at the origin")
            elif deed < 0.8:
                self.kill_a_worker()
            elif deed < 0.9:
                self.evict()
            else:
                self.origin.drop_connections()
                self.note("all origin connections dropped")

    def kill_a_worker(self) -> None:
        process = self.daemon.process
        if process is None or not self.up.is_set():
            return
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    if b"fetch.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                        os.kill(int(child), signal.SIGKILL)
                        self.note("workers killed")
                        return

    def evict(self) -> None:
        if self.up.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.daemon.admin("POST", "/v1/gc", {"target": self.random.randrange(120) * MIB})
                self.note("collections asked for")

    # --- the daemon's own life ----------------------------------------------------------------

    def restart(self) -> None:
        process = self.daemon.process
        assert process is not None
        self.up.clear()
        if self.random.random() < 0.6:
            self.daemon.kill()
            self.note("daemon kill -9")
        else:
            code = self.daemon.terminate(40)
            self.note("daemon SIGTERM")
            if code != 0:
                self.violate(f"SIGTERM ended in {code}")
        self.daemon.start()
        with self._lock:
            self.samples.append([])
        self.up.set()

    def sample(self) -> None:
        process = self.daemon.process
        if process is None or not self.up.is_set():
            return
        if process.poll() is not None:
            self.violate(f"the daemon ended by itself: {process.returncode}")
            self.ending.set()
            return
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            self.samples[-1].append(
                (int(fields["VmRSS"].split()[0]), descriptors, int(fields["Threads"]))
            )

    def run(self, seconds: float) -> None:
        for name in range(MODELS):
            self.publish(name)
        self.origin.__enter__()
        self.daemon.start()
        self.up.set()
        threads = [threading.Thread(target=self.ask_on, args=(seed,)) for seed in range(6)]
        threads.append(threading.Thread(target=self.disturb))
        for thread in threads:
            thread.start()
        started = time.monotonic()
        # The last half is one life, so that growth has time to show.
        restarts = [seconds * 0.5 * at / 8 for at in range(1, 9)]
        try:
            while (at := time.monotonic() - started) < seconds and not self.ending.is_set():
                self.sample()
                if restarts and at > restarts[0]:
                    restarts.pop(0)
                    self.restart()
                time.sleep(0.2)
        finally:
            self.ending.set()
            for thread in threads:
                thread.join(90)
                if thread.is_alive():
                    self.violate("an ask hangs")
        self.origin.clear_faults()
        self.settle()

    # --- the end ------------------------------------------------------------------------------

    def settle(self) -> None:
        """In peace every model comes, in its latest state; nothing is left half done."""
        deadline = time.monotonic() + 30
        for name in range(MODELS):
            wanted = hashlib.sha256(body_of(name, self.versions[name])).hexdigest()
            while True:
                reply = self.daemon.ask(self.origin.url(f"/m{name}.bin"))
                data = b""
                if reply.status == 200:
                    with contextlib.suppress(FileNotFoundError):
                        data = Path(reply.json()["path"], f"m{name}.bin").read_bytes()
                if hashlib.sha256(data).hexdigest() == wanted:
                    break
                if time.monotonic() > deadline:
                    self.violate(f"m{name} doesn't come in peace: {reply.status} {reply.body!r}")
                    break
                time.sleep(0.2)
        usage = self.daemon.admin("GET", "/v1/models").json()["store"]
        if usage["reserved"]:
            self.violate(f"{usage['reserved']} bytes stay reserved")
        if usage["allocated"] > usage["quota"]:
            self.violate("more is held than the quota allows")
        if " CRITICAL " in (log := self.daemon.log()) or "Traceback" in log:
            at = log.find("Traceback")
            self.violate(f"a traceback is in the log: {log[max(0, at - 400) : at + 1500]}")
        code = self.daemon.terminate(40)
        if code != 0:
            self.violate(f"the last SIGTERM ended in {code}")

    def growth(self) -> list[str]:
        """Of the longest life, its second quarter beside its last."""
        life = max(self.samples, key=len)
        quarter = len(life) // 4
        if quarter < 5:
            return ["too short a life to judge growth"]
        lines = []
        units = ("memory KiB", "descriptors", "threads")
        for unit, values in zip(units, zip(*life, strict=True), strict=True):
            before = statistics.median(values[quarter : 2 * quarter])
            after = statistics.median(values[-quarter:])
            slack = 12_288 if unit == "memory KiB" else 12
            if after > before * 1.25 + slack:
                self.violate(f"{unit} grew from {before:g} to {after:g}")
            lines.append(f"{unit}: {before:g} → {after:g} (most {max(values)})")
        return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0, help="0: another each time")
    options = parser.parse_args()
    seed = options.seed or random.randrange(1, 1 << 30)
    with tempfile.TemporaryDirectory(prefix="cachd-soak-") as home:
        soak = Soak(Path(home), seed)
        try:
            soak.run(options.seconds)
            growth = soak.growth()
        finally:
            soak.origin.close()
            soak.daemon.close()
            keep = Path(tempfile.gettempdir(), "cachd-soak.log")
            keep.write_text(soak.daemon.log())
    print(
        f"\nsoaked for {options.seconds:g} s, seed {seed}, {len(soak.samples)} lives of the daemon"
    )
    print(f"{soak.bytes / MIB:,.0f} MiB were read back and compared")
    for what, count in sorted(soak.counts.items()):
        print(f"  {count:7,d}  {what}")
    print("the longest life, second quarter → last quarter:")
    for line in growth:
        print(f"  {line}")
    print(
        f"{len(soak.violations)} violations" + (f"; the log is {keep}" if soak.violations else "")
    )
    print("FAILED" if soak.violations else "PASSED")
    return 1 if soak.violations else 0


if __name__ == "__main__":
    sys.exit(main())
