"""Names: all that a path can hold arrive as they are, all others refuse the model."""

from __future__ import annotations

import contextlib
import unicodedata
from pathlib import Path

import pytest

from tests.contract.adapter import Adapter
from tests.contract.answers import given, published, refused
from tests.harness import Daemon

NAMES = [
    "with space.bin",
    "100%.bin",
    "%41.bin",
    "a+b.bin",
    "a#b.bin",
    "a?b=c&d.bin",
    "a;b,c:d@e.bin",
    "[x]{y}(z)'q'\"r\".bin",
    "back\\slash.bin",
    "~tilde.bin",
    ".hidden",
    "<&>.bin",
    unicodedata.normalize("NFC", "naïve/é.bin"),
    unicodedata.normalize("NFD", "naïve/é.bin"),
    "模型/重み.bin",
    "🦙.bin",
    "n" * 255,
]
HOSTILE = {
    "up": ["../x"],
    "up-inside": ["a/../../x"],
    "absolute": ["/etc/x"],
    "dot": ["./x"],
    "empty-component": ["a//x"],
    "nul": ["a\0b"],
    "long": ["n" * 256],
    "deep": ["/".join(["d" * 250] * 17)],
    "file-and-directory": ["a", "a/b"],
}
HUGE = 100_000
MOST_MEMORY = 400 * 1024 * 1024


class Names:
    def test_whatever_a_file_system_takes_arrives(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("names", "several", "subpaths")
        names = [name for name in NAMES if adapter.holds(name)]
        place = adapter.put({f"m/{name}": name.encode() for name in names})
        given(place.ask(daemon, "m"), {name: name.encode() for name in names})

    @pytest.mark.parametrize("name", ["a b/100% ü+.bin", "模型/a#b?.bin"])
    def test_a_name_in_the_uri(self, adapter: Adapter, daemon: Daemon, name: str) -> None:
        adapter.need("names", "exact")
        if not adapter.can_say(name):
            pytest.skip(f"its URIs can't say {name!r}")
        place = adapter.put({name: name.encode()})
        given(place.ask(daemon, name), adapter.tree(place, name))

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_hostile_names_refuse_the_model(
        self, adapter: Adapter, daemon: Daemon, kind: str
    ) -> None:
        adapter.need("hostile", f"hostile:{kind}")
        names = HOSTILE[kind]
        if not all(map(adapter.holds, names)):
            pytest.skip("its answers can't hold such a name")
        before = published(daemon)
        place = adapter.put_hostile(["good.bin", *names])
        answer = refused(place.ask(daemon), "path_unsafe")
        assert published(daemon) == before
        shown = answer["detail"] + answer["hint"]
        assert any(part[:20] in shown for part in names[-1].split("\0"))

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_a_listing_of_100_000_files(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("huge")
        place = adapter.put_huge(HUGE)
        reply = place.ask(daemon, to="/v1/plan", patience=200)
        assert reply.status == 200, reply.body
        assert reply.json()["needed"] == HUGE
        assert most_memory(daemon) < MOST_MEMORY


def most_memory(daemon: Daemon) -> int:
    """Bytes that any child of the daemon ever had: the resolver is one."""
    assert daemon.process is not None
    most = 0
    for task in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        # Threads end while one looks, and idle children.
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{child}/status").read_text()
                    words = status.partition("VmHWM:")[2].split()
                    most = max(most, int(words[0]) * 1024 if words else 0)
    return most
