"""cachd from nothing to a cached model, on this machine, with nothing left behind.

Run by ``make demo``. Every command is run for real and what it brings is verified; the demo exits
with status 1, and the daemon's log, if anything isn't as it should be.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from daemon import Daemon
from process import Failure
from sample import MIB, Sample, differences, make_sample
from seaweed import Seaweed
from shell import Shell, has_program, remove_tree

if TYPE_CHECKING:
    from types import FrameType

BUCKET = "models"
QUOTA = 520 * MIB
BANDWIDTH = 128 * MIB
NEEDED = 3 * 1024 * MIB
METRICS = (
    "cachd_lookups_total",
    "cachd_fetch_bytes_total",
    "cachd_store_allocated_bytes",
    "cachd_store_quota_bytes",
    "cachd_store_models",
    "cachd_evictions_total",
    "cachd_evicted_bytes_total",
)


class Demo:
    """The steps, in order; each checks what it shows."""

    def __init__(self, directory: Path) -> None:
        self._work = directory / "work"
        self._work.mkdir()
        self._samples = directory / "samples"
        self._summary: list[tuple[str, str]] = []
        self._origin_bytes = 0
        self.origin = Seaweed(directory / "s3")
        self.daemon = Daemon(directory / "cachd", self.origin, QUOTA, BANDWIDTH)
        self.shell = Shell(self._work, self.daemon.client_environ)

    def run(self) -> None:
        first, second, third = self._prepare()
        self._start()
        self._pull_cold(first)
        self._pull_again(first)
        self._ask_with_curl(first)
        self._pull_cold(second)
        self._evict(first, third)
        self._show_metrics()
        self._conclude()

    def _prepare(self) -> tuple[Sample, Sample, Sample]:
        self.shell.heading("A real S3 server on loopback, with three sample models")
        start = time.monotonic()
        samples = (
            make_sample(self._samples, "llama-sample", layers=22, shards=4, seed=1),
            make_sample(self._samples, "mistral-sample", layers=11, shards=2, seed=2),
            make_sample(self._samples, "qwen-sample", layers=11, shards=2, seed=3),
        )
        self.origin.start()
        self.origin.upload(BUCKET, list(samples))
        for sample in samples:
            size = f"{sample.bytes / MIB:.0f} MiB"
            self.shell.say(f"  {_uri(sample):<28} {len(sample.digests):>3} files {size:>9}")
            if sample is not samples[0]:
                remove_tree(sample.tree)
        self.shell.say(f"  SeaweedFS at {self.origin.endpoint}, {time.monotonic() - start:.1f} s")
        return samples

    def _start(self) -> None:
        self.shell.heading(f"cachd, with room for {QUOTA // MIB} MiB")
        start = time.monotonic()
        self.daemon.start()
        self.shell.say(
            f"  (and at most {BANDWIDTH // MIB} MiB/s from the origin, so that there is something "
            f"to watch)\n\n$ {self.daemon.shown_command}"
        )
        self.shell.say(f"  ready after {time.monotonic() - start:.1f} s")

    def _pull_cold(self, sample: Sample) -> None:
        self.shell.heading(f"Pull {sample.name}: it isn't there yet")
        ran = self.shell.run_on_terminal("cachd", "pull", _uri(sample), f"./{sample.name}")
        self._check_tree(sample, f"./{sample.name}")
        self._check_origin(sample)
        size = sample.bytes / MIB
        self._note(f"cold pull of {sample.name}", f"{ran.seconds:.2f} s for {size:.0f} MiB")

    def _pull_again(self, sample: Sample) -> None:
        self.shell.heading("Pull it again: a hit, nothing from the origin")
        ran = self.shell.run("cachd", "pull", _uri(sample), "./again")
        _expect("cached" in ran.output, "the second pull doesn't say that the model was cached")
        self._check_tree(sample, "./again")
        self._check_origin(None)
        self._note("the same again, a copy of the cached one", f"{ran.seconds:.2f} s")

    def _ask_with_curl(self, sample: Sample) -> None:
        self.shell.heading("The same over the socket, with curl")
        if not has_program("curl"):
            self.shell.say("  curl isn't on this machine: `cachd pull` and `cachd show` instead")
            self.shell.run("cachd", "show", self._key(sample))
            return
        curl = ("curl", "-sS", "--fail-with-body", "--unix-socket", str(self.daemon.socket))
        short = "curl -sS --unix-socket $CACHD_SOCKET"
        body = json.dumps({"uri": _uri(sample)})
        json_type = "Content-Type: application/json"
        url = "http://cachd/v1/models"
        ran = self.shell.run(
            *(*curl, "-H", json_type, "-d", body, "-w", "\n%{time_total}", url),
            show_output=False,
            shown=f"{short} -H '{json_type}' -d '{body}' {url}",
        )
        text, seconds = ran.output.rsplit("\n", 1)
        answer = json.loads(text)
        self._print_json(answer)
        _expect(answer["result"] == "hit", f"curl got no hit: {answer}")
        self.shell.say(f"  answered in {float(seconds) * 1000:.1f} ms")
        self._note("a hit over the socket (curl)", f"{float(seconds) * 1000:.1f} ms")

        shard = next(name for name in sorted(sample.digests) if name.endswith(".safetensors"))
        url = f"http://cachd/v1/models/{answer['key']}/files/{shard}"
        self.shell.run(
            *(*curl, "-r", "0-199", "-D", "headers", "-o", "head", url),
            show_output=False,
            shown=f"{short} -D - -r 0-199 {url}",
        )
        headers = (self._work / "headers").read_text()
        data = (self._work / "head").read_bytes()
        self.shell.say("".join(f"  {line}\n" for line in headers.splitlines() if line).rstrip())
        self.shell.say(f"  {data[8:72].decode(errors='replace')}…")
        with (sample.tree / shard).open("rb") as file:
            _expect(data == file.read(200), "the range that curl got isn't the file's")
        _expect(" 206 " in headers.splitlines()[0], "a range was not answered with 206")
        self._check_origin(None)

    def _evict(self, first: Sample, third: Sample) -> None:
        self.shell.heading("A third model doesn't fit: who would go, and why?")
        key = self._key(first)
        self.shell.run("cachd", "plan", _uri(third))
        plan = self.shell.ask("cachd", "plan", _uri(third), "--json")
        victims = [victim["key"] for victim in plan["evict"]]
        _expect(victims == [key], f"the plan evicts {victims}, the least recently used is {key}")
        self._pull_cold(third)
        self.shell.run("cachd", "ls")
        _expect(key not in self._keys(), f"{first.name} is still there")
        reason = plan["evict"][0]["reason"]
        self._note("evicted to make room", f"{first.name} ({reason})")

    def _show_metrics(self) -> None:
        self.shell.heading("What Prometheus sees")
        self.shell.say(f"\n$ curl -s http://{self.daemon.health}/metrics | grep …")
        samples = [line for line in self.daemon.metrics() if line.startswith(METRICS)]
        for line in samples:
            if not line.endswith(" 0.0"):
                self.shell.say(f"  {line}")
        evictions = [line for line in samples if line.startswith("cachd_evictions_total")]
        _expect(
            sum(float(line.rsplit(" ", 1)[1]) for line in evictions) >= 1,
            "the metrics know of no eviction",
        )

    def _conclude(self) -> None:
        status = self.daemon.stop()
        _expect(status == 0, f"cachd ended with status {status}")
        self.shell.heading("In short")
        self._note(
            "sent by the origin, by its own count",
            f"{self._origin_bytes / MIB:.0f} MiB: every model once",
        )
        width = max(len(what) for what, _ in self._summary)
        for what, result in self._summary:
            self.shell.say(f"  {what:<{width}}  {result}")

    def _key(self, sample: Sample) -> str:
        for model in self.shell.ask("cachd", "ls", "--json")["models"]:
            if model["uri"] == _uri(sample):
                return str(model["key"])
        raise Failure(f"cachd ls doesn't know {_uri(sample)}")

    def _keys(self) -> set[str]:
        return {model["key"] for model in self.shell.ask("cachd", "ls", "--json")["models"]}

    def _check_tree(self, sample: Sample, name: str) -> None:
        wrong = differences(self._work / name, sample.digests)
        _expect(not wrong, f"{name} isn't what was uploaded: {', '.join(wrong)}")
        self.shell.say(f"  {name}: {len(sample.digests)} files, each sha256 as uploaded")
        remove_tree(self._work / name)

    def _check_origin(self, sample: Sample | None) -> None:
        """The origin sent ``sample`` once since the last look, or nothing."""
        sent = self.origin.bytes_sent(BUCKET) or 0
        expected = sample.bytes if sample else 0
        fresh, self._origin_bytes = sent - self._origin_bytes, sent
        _expect(fresh == expected, f"the origin sent {fresh} bytes, {expected} were expected")

    def _note(self, what: str, result: str) -> None:
        self._summary.append((what, result))

    def _print_json(self, answer: dict[str, Any]) -> None:
        for line in json.dumps(answer, indent=2).splitlines():
            self.shell.say(f"  {line}")


def _uri(sample: Sample) -> str:
    return f"s3://{BUCKET}/{sample.name}"


def _expect(is_true: bool, message: str) -> None:
    if not is_true:
        raise Failure(message)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cachd-demo-") as name:
        free = shutil.disk_usage(name).free
        if free < NEEDED:
            print(
                f"demo: {free // MIB} MiB free at {Path(name).parent}, {NEEDED // MIB} MiB are "
                "needed; name another place by TMPDIR=…",
                file=sys.stderr,
            )
            return 1
        demo = Demo(Path(name))
        try:
            demo.run()
        except Failure as error:
            log = demo.daemon.tail()
            print(f"\ndemo: {error}", *[log] * (log not in str(error)), sep="\n", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ndemo: stopped", file=sys.stderr)
            return 130
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            demo.daemon.stop()
            demo.origin.stop()
    print(f"\nDone in {time.monotonic() - start:.0f} s; nothing is left behind.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
