"""Peak memory while 16 files of 1 GiB arrive over 16 connections, by process.

``Pss`` counts a page that n processes share as 1/n of it in each: the sum is what the machine gives.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

from bench.compare import Cachd, tree
from bench.origin import Origin


def memory_of(pid: int) -> tuple[str, int, int]:
    """What the process is, its resident and its proportional set in bytes."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    name = arguments[2] if len(arguments) > 2 else arguments[0]
    rows = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    return name, *(int(rows[field].split()[0]) * 1024 for field in ("Rss", "Pss"))


def measure_memory(directory: Path, scheme: str = "http") -> None:
    """Print the peaks. ``directory`` needs 17 GiB; the origin's files are sparse."""
    home = Path(tempfile.mkdtemp(prefix="cachd-bench-", dir=directory))
    home.chmod(0o755)
    origin = Origin(home / "origin", {f"model-{n:02}.safetensors": 2**30 for n in range(16)})
    cachd = Cachd(home, origin, scheme, {"CACHD_FETCH_CONNECTIONS": "16"})
    peaks: dict[int, tuple[str, int, int]] = {}
    total = {"Rss": 0, "Pss": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            now = []
            for pid in tree(cachd.process.pid):
                try:
                    name, rss, pss = memory_of(pid)
                except (OSError, ValueError, KeyError):
                    continue
                now.append((rss, pss))
                old = peaks.get(pid, (name, 0, 0))
                peaks[pid] = (name, max(rss, old[1]), max(pss, old[2]))
            total["Rss"] = max(total["Rss"], sum(rss for rss, _ in now))
            total["Pss"] = max(total["Pss"], sum(pss for _, pss in now))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        cost = cachd.run()
    finally:
        ended.set()
        watcher.join()
        cachd.close()
        origin.close()
        shutil.rmtree(home, ignore_errors=True)
    print("| process | RSS MiB | PSS MiB |")
    print("|---|---|---|")
    for name, rss, pss in peaks.values():
        print(f"| {name} | {rss / 2**20:.0f} | {pss / 2**20:.0f} |")
    print(f"| all, at the same time | {total['Rss'] / 2**20:.0f} | {total['Pss'] / 2**20:.0f} |")
    print(f"\n16 GiB in {cost.wall:.1f} s, {cost.cpu / 17.18:.2f} CPU-s/GB")
