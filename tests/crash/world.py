"""A daemon that can be made to die, the models that it fetches, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.origin import BucketOrigin
from tests.disk import flip, names_below, tree_of
from tests.harness import Daemon, Reply, UnixConnection, call, eventually

MIB = 1 << 20
PART = 8 * MIB
CONNECTIONS = 2
IN_FLIGHT = CONNECTIONS * PART
QUOTA = 60 * MIB
REPOSITORY = Path(__file__).parents[2]
_PATIENCE = 60.0

_EXPECTED = re.compile(
    r"layout\.json|daemon\.lock|lost\+found"
    r"|(blobs|blobs/sha256|current|ingest|quarantine|snapshots|state|state/leases|state/pins"
    r"|state/updates|state/views|trash|views)"
    r"|snapshots/[0-9a-f]+(/[0-9a-f]+(/(manifest\.json|corrupt\.json|tree(/.*)?))?)?"
    r"|ingest/[0-9a-f]+-[0-9a-f]+(/(journal|tree(/.*)?|manifest\.json))?"
    r"|current/[0-9a-f]+|blobs/sha256/[0-9a-f]{64}"
    r"|state/scrub\.json|state/leases/[0-9a-f]{64}|state/pins/[0-9a-f]+"
    r"|trash/.*|quarantine/.*"
)


def noise(size: int, seed: int) -> bytes:
    import random

    return random.Random(seed).randbytes(size)


WEIGHTS = noise(20 * MIB + 12_345, 1)
OLD = {"w.bin": WEIGHTS, "config.json": b'{"v": 1}', "d/empty": b""}
NEW = {**OLD, "config.json": b'{"v": 2}', "x.bin": noise(11 * MIB, 2)}
BIG = {"big.bin": noise(30 * MIB, 3)}
KEEP = {"keep.bin": noise(100_000, 4)}


@dataclass
class DyingDaemon(Daemon):
    """``boot``: the boot id that it believes in; "" for the kernel's."""

    boot: str = ""

    @property
    def order(self) -> Path:
        return self.home / "armed"

    @property
    def sums_file(self) -> Path:
        return self.home / "sums.json"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.crash.serve_dying"]

    def variables(self) -> dict[str, str]:
        return {
            **super().variables(),
            "PYTHONPATH": str(REPOSITORY),
            "DYING_ARMED": str(self.order),
            "DYING_SUMS": str(self.sums_file),
            **({"DYING_BOOT": self.boot} if self.boot else {}),
        }

    def arm(self, step: str, count: int = 1, deed: str = "kill") -> None:
        temporary = self.home / "armed.tmp"
        temporary.write_text(f"{step}|{count}|{deed}")
        temporary.rename(self.order)

    def disarm(self) -> None:
        self.order.unlink(missing_ok=True)

    def wait_death(self) -> None:
        assert self.process is not None
        code = self.process.wait(_PATIENCE)
        assert code == -signal.SIGKILL, (code, self.log()[-3000:])
        self.disarm()

    def sums(self) -> dict[str, list[int]]:
        assert self.process is not None
        self.sums_file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        eventually(self.sums_file.exists)
        return json.loads(self.sums_file.read_text())


@dataclass
class World:
    """``known`` are the states that each model ever had at its origin."""

    home: Path
    root: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    known: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.origin = BucketOrigin()
        self.daemon = DyingDaemon(
            self.home,
            settings={
                "FETCH_CONNECTIONS": str(CONNECTIONS),
                "FETCH_PART_SIZE": str(PART),
                "FETCH_WORKERS": "1",
                "FETCH_LINGER": "0",
                "FRESHNESS_INTERVAL": "0",
                "STORE_QUOTA": str(QUOTA),
                "STORE_FREE_FLOOR": "0",
                "STORE_MIN_IDLE": "3600",
                "STORE_WATCH_INTERVAL": "3600",
                **self.settings,
            },
        )
        if self.root is not None:
            self.daemon.root = self.root
        self._askers: list[threading.Thread] = []
        self.lease: dict[str, Any] = {}
        self.kept = ""

    def close(self) -> None:
        self.origin.release()
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            self.daemon.kill()
        for asker in self._askers:
            asker.join(60)
        self.daemon.close()
        self.origin.close()

    # --- doing --------------------------------------------------------------------------------

    def put(self, name: str, files: dict[str, bytes]) -> None:
        self.origin.put(name, files)
        states = self.known.setdefault(self.origin.uri(name), [])
        if files not in states:
            states.append(files)

    def begin(self) -> None:
        """A daemon with a model that is pinned and leased: that must outlive whatever comes."""
        self.put("keep", KEEP)
        self.daemon.start()
        answer = self.pull("keep", lease={"holder": "pod", "ttl": 3600})
        self.lease, self.kept = answer["lease"], answer["key"]
        assert self.daemon.admin("PUT", f"/v1/models/{self.kept}/pin").status == 200

    def ask(self, name: str, **body: Any) -> Reply:
        return self.daemon.ask(self.origin.uri(name), **self.origin.ask, **body)

    def pull(self, name: str, **body: Any) -> dict[str, Any]:
        """Ask, and see that what comes is right to the last byte."""
        reply = self.ask(name, **body)
        assert reply.status == 200, reply.body
        answer = reply.json()
        wanted = self.known[self.origin.uri(name)][-1]
        assert tree_of(Path(answer["path"])) == wanted, f"{name} is wrong"
        return answer

    def ask_in_vain(self, name: str) -> None:
        """Ask in a thread; the answer never comes, for the daemon dies."""

        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask(name)

        asker = threading.Thread(target=ask)
        asker.start()
        self._askers.append(asker)

    def ask_and_go(self, name: str) -> None:
        """Ask, and hang up when the origin is held in mid-body and a part is journalled."""
        connection = UnixConnection(self.daemon.socket)
        body = json.dumps({"uri": self.origin.uri(name), **self.origin.ask}).encode()
        connection.request("POST", "/v1/models", body)
        self.wait_mid_part()
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def wait_mid_part(self) -> None:
        assert self.origin.held.wait(_PATIENCE)
        eventually(lambda: self.journalled() >= 1)

    def die_at(self, step: str, count: int = 1, *, name: str = "m", deed: str = "kill") -> None:
        self.daemon.arm(step, count, deed)
        self.ask_in_vain(name)
        self.daemon.wait_death()

    def admin_in_vain(self, method: str, target: str, body: Any = None) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            call(self.daemon.admin_socket, method, target, body, timeout=_PATIENCE)

    def journalled(self) -> int:
        """Parts in the journals of what is being fetched."""
        total = 0
        for journal in self.daemon.root.glob("ingest/*/journal"):
            with contextlib.suppress(FileNotFoundError):
                total += max(0, len(journal.read_bytes().splitlines()) - 1)
        return total

    def workers(self) -> list[int]:
        assert self.daemon.process is not None
        found = []
        for task in Path(f"/proc/{self.daemon.process.pid}/task").iterdir():
            # Threads and workers end while one looks.
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    with contextlib.suppress(OSError):
                        if b"fetch.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                            found.append(int(child))
        return found

    def spoil_a_block(self) -> None:
        """Change a byte of a journalled part, as a disk may that lost its power."""
        for journal in self.daemon.root.glob("ingest/*/journal"):
            for line in journal.read_bytes().splitlines()[1:]:
                part = json.loads(line)
                if part.get("length", 0) == PART:
                    path = journal.parent / "tree" / part["path"]
                    flip(path, part["offset"] + 1000)
                    return
        raise AssertionError("no part is journalled")

    # --- looking ------------------------------------------------------------------------------

    def published(self, name: str) -> str:
        """ "none", "old" or "new": what is current of a model, read from the disk."""
        current = self.daemon.admin("GET", "/v1/models").json()["models"]
        uri = self.origin.uri(name)
        for model in current:
            if model["uri"] == uri and model.get("revision"):
                place = self.daemon.root / "snapshots" / model["key"] / model["revision"] / "tree"
                number = self.known[uri].index(tree_of(place))
                return "new" if number == len(self.known[uri]) - 1 and number else "old"
        return "none"

    def check(self, *, exact: bool = True) -> None:
        """What must hold after every start. ``exact``: the accounting against the disk, too."""
        root = self.daemon.root
        for manifest in root.glob("snapshots/*/*/manifest.json"):
            uri = json.loads(manifest.read_bytes())["ref"]["uri"]
            assert tree_of(manifest.parent / "tree") in self.known[uri], f"{uri} is not whole"
        for snapshot in root.glob("snapshots/*/*"):
            assert (snapshot / "manifest.json").exists(), snapshot
        eventually(lambda: not list((root / "trash").iterdir()))
        strange = [name for name in names_below(root) if not _EXPECTED.fullmatch(name)]
        assert not strange, f"left behind: {strange}"
        if exact:
            self._check_accounting(root)
        if self.kept:
            self._check_kept()

    def _check_accounting(self, root: Path) -> None:
        def is_right() -> bool:
            said = self.daemon.admin("GET", "/v1/models").json()["store"]["allocated"]
            return said == held_below(root)

        try:
            eventually(is_right)
        except AssertionError:
            said = self.daemon.admin("GET", "/v1/models").json()["store"]
            raise AssertionError(f"{held_below(root)} bytes on disk, said are {said}") from None
        sums = self.daemon.sums()
        assert sums["sums"] == sums["recount"], sums
        lonely = [path for path in root.glob("blobs/sha256/*") if path.stat().st_nlink == 1]
        assert not lonely, f"blobs that nobody holds: {lonely}"

    def _check_kept(self) -> None:
        models = {m["key"]: m for m in self.daemon.admin("GET", "/v1/models").json()["models"]}
        assert models[self.kept]["pinned"]
        assert models[self.kept]["leases"] >= 1
        lease = f"/v1/models/{self.kept}/leases/{self.lease['id']}"
        renewed = call(self.daemon.socket, "PUT", lease, {})
        assert renewed.status == 200, renewed.body


@contextlib.contextmanager
def world(home: Path, root: Path | None = None, **settings: str) -> Iterator[World]:
    made = World(home, root, settings)
    try:
        yield made
    finally:
        made.close()


def held_below(root: Path) -> int:
    """Allocated bytes of all that holds models, each inode once: what ``du`` would say."""
    seen: set[int] = set()
    total = 0
    places = [*root.glob("snapshots/*/*"), *root.glob("ingest/*"), *root.glob("trash/*")]
    places += [*root.glob("quarantine/*"), *root.glob("blobs/sha256/*")]
    for place in places:
        for path in (place, *place.rglob("*")):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if status.st_ino not in seen or stat.S_ISDIR(status.st_mode):
                seen.add(status.st_ino)
                total += status.st_blocks * 512
    return total
