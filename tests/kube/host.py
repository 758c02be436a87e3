"""A host as the provider of cgroups sees one: trees like those of /sys/fs/cgroup and /proc."""

from __future__ import annotations

from pathlib import Path

from cachd.kube.cgroup import PodCgroups


class Host:
    """Trees like those of /sys/fs/cgroup and /proc."""

    def __init__(self, root: Path, *, is_host: bool = True) -> None:
        self.cgroups, self.proc = root / "cgroup", root / "proc"
        self.cgroups.mkdir(parents=True)
        self.proc.mkdir()
        if is_host:
            self.process(2, "/")
            (self.proc / "2" / "comm").write_text("kthreadd\n")

    def process(self, pid: int, path: str) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cgroup").write_text(f"0::{path}\n")

    def end(self, pid: int) -> None:
        (self.proc / str(pid) / "cgroup").unlink()
        (self.proc / str(pid)).rmdir() if pid != 2 else None

    def cgroup(self, path: str) -> Path:
        made = self.cgroups / path
        made.mkdir(parents=True)
        return made

    def provider(self, own: str = "") -> PodCgroups:
        times = iter(range(0, 1000, 10))
        return PodCgroups(
            self.cgroups, proc=self.proc, own_pod=own, clock=lambda: float(next(times))
        )
