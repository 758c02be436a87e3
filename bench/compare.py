"""cachd against boto3's TransferManager and s5cmd: the same objects, the same origin, one run.

Each contender gets a discarded warm-up, then the contenders take turns, first in one order and then in the
other. Reported: medians of wall seconds, CPU seconds (user + system of every process of the contender, daemon and
workers included), CPU seconds per GB and peak memory (sum of the processes' resident sets). The
destination is tmpfs, emptied after each turn; before each turn memory is made equally warm
(``touch_pages``).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.origin import BUCKET, Origin

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

BOTO3 = """
import os, sys, boto3
from concurrent.futures import ThreadPoolExecutor
from botocore import UNSIGNED
from botocore.config import Config
endpoint, bucket, dest, ca = sys.argv[1:5]
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", verify=ca or None,
    config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}, max_pool_connections=32))
keys = [o["Key"] for p in client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for o in p["Contents"]]
def one(key):
    path = os.path.join(dest, key)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    client.download_file(bucket, key, path)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(one, keys))
"""


@dataclass
class Cost:
    wall: float
    cpu: float
    memory: int


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            for child in (task / "children").read_text().split():
                found += tree(int(child))
        except OSError:
            continue
    return found


def cpu_of(pid: int) -> float:
    """CPU seconds of the process and its descendants, ended children included."""
    total = 0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:13]))
        total += sum(map(int, fields[13:15]))
    return total / TICK


class MemoryWatch(threading.Thread):
    """The highest sum of resident sets of a process tree, sampled every 20 ms. Pages that processes
    share (the interpreter, its libraries) are counted in each."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self._stop_event = pid, 0, threading.Event()

    def run(self) -> None:
        while not self._stop_event.wait(0.02):
            total = 0
            try:
                pids = tree(self.pid)
            except OSError:
                continue
            for one in pids:
                try:
                    total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * PAGE
                except (OSError, IndexError):
                    continue
            self.peak = max(self.peak, total)

    def stop(self) -> int:
        self._stop_event.set()
        self.join()
        return self.peak


def run_command(command: list[str], environ: dict[str, str] | None = None) -> Cost:
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **(environ or {})}, stdout=subprocess.DEVNULL
    )
    watch = MemoryWatch(process.pid)
    watch.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, max(watch.stop(), usage.ru_maxrss * 1024))


class Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("cachd", timeout=600)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Cachd:
    """A daemon with a root on tmpfs. Its first run pays for workers and resolver; it is discarded."""

    def __init__(self, home: Path, origin: Origin, scheme: str, extra: dict[str, str]) -> None:
        self.origin, self.scheme = origin, scheme
        self.home = home
        self.run_dir = Path(tempfile.mkdtemp(prefix="cachd-bench-"))
        self.socket = self.run_dir / "cachd.sock"
        environ = {
            **os.environ,
            "CACHD_STORE_ROOT": str(home / "cachd"),
            "CACHD_SOCKET": str(self.socket),
            "CACHD_STORE_QUOTA": "100%",
            "CACHD_STORE_FREE_FLOOR": "16MiB",
            "CACHD_FRESHNESS_INTERVAL": "0",
            "CACHD_LOG_LEVEL": "warning",
            **extra,
        }
        self.process = subprocess.Popen([sys.executable, "-m", "cachd", "serve"], env=environ)
        deadline = time.monotonic() + 20
        while True:
            try:
                if self.call("GET", "/readyz")[0] == 200:
                    break
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def call(self, method: str, target: str, body: Any = None, *, admin: bool = False) -> Any:
        connection = Unix(self.socket.with_name("admin.sock") if admin else self.socket)
        connection.request(method, target, json.dumps(body) if body else None)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, json.loads(data) if data else None

    def run(self) -> Cost:
        options: dict[str, Any] = {"endpoint": self.origin.endpoint(self.scheme)}
        if self.scheme == "https":
            options["ca_pem"] = self.origin.certificate.read_text()
        before = cpu_of(self.process.pid)
        watch = MemoryWatch(self.process.pid)
        watch.start()
        started = time.perf_counter()
        status, answer = self.call(
            "POST",
            "/v1/models",
            {
                "uri": f"s3://{BUCKET}/",
                "options": options,
                "credentials": {"anonymous": True},
            },
        )
        wall = time.perf_counter() - started
        if status != 200 or answer["result"] != "miss":
            raise SystemExit(f"cachd answered {status}: {answer}")
        cost = Cost(wall, cpu_of(self.process.pid) - before, watch.stop())
        status, gone = self.call("DELETE", f"/v1/models/{answer['key']}?force=true", admin=True)
        if status != 200:
            raise SystemExit(f"cachd can't remove: {gone}")
        trash = self.home / "cachd" / "trash"
        while any(trash.iterdir()):
            time.sleep(0.01)
        return cost

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.run_dir, ignore_errors=True)


def contenders(
    home: Path, origin: Origin, scheme: str, cachd: Cachd, names: list[str]
) -> dict[str, Callable[[], Cost]]:
    dest = home / "dest"
    ca = str(origin.certificate) if scheme == "https" else ""

    def peer(command: list[str]) -> Cost:
        dest.mkdir()
        try:
            return run_command(command)
        finally:
            shutil.rmtree(dest)

    def boto3() -> Cost:
        python = os.environ.get("BENCH_PYTHON", sys.executable)
        return peer([python, "-c", BOTO3, origin.endpoint(scheme), BUCKET, str(dest), ca])

    def s5cmd() -> Cost:
        command = [
            shutil.which("s5cmd", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            or "s5cmd",
            "--endpoint-url", origin.endpoint(scheme), "--no-sign-request",
        ]  # fmt: skip
        if ca:
            command.append("--no-verify-ssl")
        return peer([*command, "cp", f"s3://{BUCKET}/*", f"{dest}/"])

    every = {"cachd": cachd.run, "boto3": boto3, "s5cmd": s5cmd}
    return {name: every[name] for name in names}


def touch_pages(home: Path, count: int) -> None:
    """Take ``count`` bytes of memory and give them back, so that what runs next finds pages that
    the machine has at hand. A virtual machine returns free pages to its host after seconds, and
    getting one back costs more than filling it: whoever ran right after deleting its own last copy
    was spared that, the others were not."""
    path = home / "touch"
    chunk = bytes(1 << 20)
    with path.open("wb") as file:
        for _ in range(count >> 20):
            file.write(chunk)
    path.unlink()


def measure(case: str, files: dict[str, int], scheme: str, args: argparse.Namespace) -> list[str]:
    home = Path(tempfile.mkdtemp(prefix="cachd-bench-", dir=args.tmpfs))
    home.chmod(0o755)  # nginx drops root
    origin = Origin(home / "origin", files)
    cachd = Cachd(home, origin, scheme, {})
    costs: dict[str, list[Cost]] = {}
    try:
        turns = contenders(home, origin, scheme, cachd, args.contenders.split(","))
        for turn in turns.values():
            turn()
        for run in range(args.runs):
            order = list(turns) if run % 2 == 0 else list(reversed(turns))
            for name in order:
                touch_pages(home, origin.bytes + (256 << 20))
                costs.setdefault(name, []).append(turns[name]())
    finally:
        cachd.close()
        origin.close()
        shutil.rmtree(home, ignore_errors=True)
    rows = []
    base = {
        n: (statistics.median(c.wall for c in cs), statistics.median(c.cpu for c in cs))
        for n, cs in costs.items()
    }
    for name, runs in costs.items():
        wall, cpu = base[name]
        memory = max(c.memory for c in runs) / 2**20
        rows.append(
            f"| {case} | {scheme} | {name} | {wall:.2f} | {cpu:.2f} "
            f"| {cpu / (origin.bytes / 1e9):.2f} | {memory:.0f} "
            f"| {base['cachd'][0] / wall:.2f} | {base['cachd'][1] / cpu:.2f} |"
        )
    return rows


def compare(args: argparse.Namespace) -> None:
    """Print the table."""
    cases = {
        "big": {f"model-{n}.safetensors": 512 * 2**20 for n in range(4)},
        "small": {f"part/{n:05}.bin": 16 * 2**10 for n in range(2000)},
    }
    print("| case | scheme | who | wall s | CPU s | CPU-s/GB | MiB | wall ratio | CPU ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in args.cases.split(","):
        for scheme in args.schemes.split(","):
            for row in measure(case, cases[case], scheme, args):
                print(row, flush=True)
