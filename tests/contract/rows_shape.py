"""What a URI means: which files arrive, and under which paths."""

from __future__ import annotations

import pytest

from tests.conformance.packing import tar, zipped
from tests.contract.adapter import Adapter
from tests.contract.answers import given, refused
from tests.harness import Daemon

W = b"weights" * 1000
J = b'{"a": 1}'
MIB = 1024 * 1024
BIG = 17 * MIB + 70_000
"""Bytes of three parts."""


class Shape:
    def test_bytes_and_paths_are_those_of_the_source(
        self, adapter: Adapter, daemon: Daemon
    ) -> None:
        adapter.need("several", "subpaths")
        place = adapter.put(
            {"m/model.bin": W, "m/config.json": J, "m/a/very/long/path/w.bin": W + b"2"}
        )
        answer = given(place.ask(daemon, "m"), adapter.tree(place, "m"))
        assert answer["result"] == "miss"
        assert answer["files"] == 3
        assert answer["bytes"] == sum(map(len, place.files.values()))

    def test_the_next_ask_is_a_hit_without_bytes(self, adapter: Adapter, daemon: Daemon) -> None:
        body = adapter.fresh_bytes(7000)
        place = adapter.put({"m/model.bin": body})
        path = "m" if "subpaths" not in adapter.lacks else "m/model.bin"
        first = given(place.ask(daemon, path), adapter.tree(place, path))
        if adapter.gate is not None:
            adapter.gate.clear()
        second = given(place.ask(daemon, path), adapter.tree(place, path))
        assert (first["result"], second["result"]) == ("miss", "hit")
        assert second["fetched_bytes"] == 0
        assert second["revision"] == first["revision"]
        if adapter.gate is not None:
            # Small files may come along with the question whether they may be read.
            data = adapter.gate.passed(adapter.is_data)
            assert sum(each.sent for each in data if each.method == "GET") < len(body)

    def test_a_directory_is_not_its_siblings(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("several", "subpaths")
        place = adapter.put({"m/x.bin": W, "m-hf/y.bin": J, "m.txt": J, "n/m/z.bin": J})
        given(place.ask(daemon, "m"), {"x.bin": W})
        given(place.ask(daemon, "m/"), {"x.bin": W})
        assert refused(place.ask(daemon, "m/x"), "not_found")

    def test_one_exact_file(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("exact")
        place = adapter.put({"m/x.bin": W, "m/x.bin.bak": J, "m/y.bin": J})
        given(place.ask(daemon, "m/x.bin"), adapter.tree(place, "m/x.bin"))

    @pytest.mark.parametrize(("body", "path"), [(W, "m"), (b"", "x")], ids=["full", "empty"])
    def test_a_file_that_is_a_directory_too(
        self, adapter: Adapter, daemon: Daemon, body: bytes, path: str
    ) -> None:
        """It is the model, unless it is empty."""
        adapter.need("keeps")
        place = adapter.put({"d/m": body, "d/m/x": J})
        given(place.ask(daemon, "d/m"), {path: body or J})

    def test_all_there_is(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("whole", "several")
        place = adapter.put({"config.json": J, "sub/x.bin": W})
        given(place.ask(daemon), adapter.tree(place))

    def test_empty_files_stay(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("empty")
        several = "several" not in adapter.lacks and "subpaths" not in adapter.lacks
        path = "m" if several else "m/__init__.py"
        place = adapter.put({"m/__init__.py": b"", **({"m/x.bin": W} if several else {})})
        given(place.ask(daemon, path), adapter.tree(place, path))

    def test_markers_of_directories_are_no_files(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("markers")
        place = adapter.put({"m/": b"", "m/sub/": b"", "m/sub/x.bin": W})
        given(place.ask(daemon, "m"), {"sub/x.bin": W})

    @pytest.mark.parametrize(
        ("allow", "ignore", "left"),
        [
            (["*.bin"], [], ["a.bin", "sub/b.bin"]),
            ([], ["sub/*"], ["a.bin", "c.json"]),
            (["*.bin", "*.json"], ["sub/*"], ["a.bin", "c.json"]),
        ],
        ids=["allow", "ignore", "both"],
    )
    def test_patterns(
        self,
        adapter: Adapter,
        daemon: Daemon,
        allow: list[str],
        ignore: list[str],
        left: list[str],
    ) -> None:
        adapter.need("patterns", "subpaths")
        place = adapter.put({"m/a.bin": W, "m/sub/b.bin": W + b"b", "m/c.json": J, "m/d.txt": b""})
        if not allow:
            ignore = [*ignore, "*.txt"]
        tree = {name: place.files[f"m/{name}"] for name in left}
        given(place.ask(daemon, "m", allow=allow, ignore=ignore), tree)

    def test_patterns_do_not_touch_one_exact_file(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("patterns", "exact")
        place = adapter.put({"m/b.bin": W, "m/c.json": J})
        given(place.ask(daemon, "m/b.bin", allow=["*.json"]), {"b.bin": W})

    def test_patterns_that_leave_nothing(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("patterns", "subpaths")
        place = adapter.put({"m/a.bin": W})
        answer = refused(place.ask(daemon, "m", allow=["*.gguf"]), "not_found")
        assert "pattern" in answer["detail"] + answer["hint"]

    def test_nothing_is_there(self, adapter: Adapter, daemon: Daemon) -> None:
        place = adapter.put({"m/a.bin": W})
        refused(place.ask(daemon, "nothing/here.bin"), "not_found")
        if "subpaths" not in adapter.lacks:
            refused(place.ask(daemon, "nothing"), "not_found")

    @pytest.mark.parametrize("kind", ["tar.gz", "zip"])
    def test_an_archive_alone_is_unpacked(
        self, adapter: Adapter, daemon: Daemon, kind: str
    ) -> None:
        adapter.need("archives")
        tree = {"model.bin": W, "sub/config.json": J}
        packed = zipped(tree) if kind == "zip" else tar(tree, mode="gz")
        place = adapter.put({f"m/model.{kind}": packed})
        path = "m" if "subpaths" not in adapter.lacks else f"m/model.{kind}"
        given(place.ask(daemon, path), tree)

    def test_an_archive_among_others_is_a_file(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("archives", "several", "subpaths")
        place = adapter.put({"m/model.zip": zipped({"model.bin": W}), "m/config.json": J})
        given(place.ask(daemon, "m"), adapter.tree(place, "m"))

    def test_a_large_file_comes_by_parts(self, adapter: Adapter, daemon: Daemon) -> None:
        adapter.need("ranges")
        gate = adapter.the_gate()
        place = adapter.put({"m/big.bin": adapter.fresh_bytes(BIG)})
        given(place.ask(daemon, "m/big.bin"), adapter.tree(place, "m/big.bin"))
        parts = [each for each in gate.passed(adapter.is_data) if each.sent >= MIB]
        assert len(parts) == 3
        assert max(each.sent for each in parts) == 8 * MIB
        assert sum(each.sent for each in parts) == BIG
