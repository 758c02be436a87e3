"""What a person can make current, and what not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import eventually, running
from tests.origins.bucket import Bucket
from tests.process.updating import (
    CONFIG,
    NEW,
    OLD,
    ask,
    cachd,
    config,
    promote,
    rules,
    serving,
    shown,
    state,
    updated,
)


@pytest.fixture
def origin() -> Iterator[Bucket]:
    with serving() as one:
        yield one


def test_a_promotion_of_what_cannot_be_given(tmp_path: Path, origin: Bucket) -> None:
    with running(tmp_path, **rules(), SCRUB_REPAIR="false") as daemon:
        first = ask(daemon, origin)
        key = first["key"]
        nothing = promote(daemon, key)
        assert (nothing["status"], nothing["code"]) == (400, "request_invalid")
        assert first["revision"] in nothing["hint"]
        unknown = promote(daemon, key, "abcdef")
        assert (unknown["status"], unknown["code"]) == (404, "model_unknown")
        assert promote(daemon, "0" * 16)["code"] == "model_unknown"
        origin.put(CONFIG, NEW)
        eventually(lambda: state(daemon, key) == "ready")
        waiting = shown(daemon, key)["update"]["revision"]
        file = daemon.root / "snapshots" / key / waiting / "tree" / "config.json"
        file.chmod(0o644)
        file.write_bytes(NEW.upper())
        assert daemon.admin("POST", f"/v1/models/{key}/verify", {}).json()["corrupt"] == 1
        corrupt = promote(daemon, key)
        assert (corrupt["status"], corrupt["code"]) == (503, "model_corrupt")
        assert ask(daemon, origin)["revision"] == first["revision"]
        assert shown(daemon, key)["promoted"] is None
        refused = daemon.ask("s3://models/m", options={"endpoint": origin.base})
        assert refused.status == 200
        forbidden = cachd(daemon, "promote", key, "--admin-socket", str(daemon.socket))
        assert forbidden.returncode != 0
        assert "administrators" in forbidden.stderr


def test_promotions_while_a_newer_one_is_published(tmp_path: Path, origin: Bucket) -> None:
    """Each leaves one of the revisions current, whole, and the same one on the disk."""
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        first = ask(daemon, origin)
        key = first["key"]
        for count in range(6):
            origin.put(CONFIG, b'{"n": %d}' % count)
            threads = [
                threading.Thread(target=ask, args=(daemon, origin)),
                threading.Thread(target=promote, args=(daemon, key, first["revision"])),
                threading.Thread(target=promote, args=(daemon, key, first["revision"])),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            current = shown(daemon, key)
            assert (daemon.root / "current" / key).read_text().strip() == current["revision"]
            assert not current["corrupt"]
        assert promote(daemon, key, first["revision"])["state"] == "promoted"
        daemon.kill()
        daemon.start()
        assert config(ask(daemon, origin)) == OLD


def test_the_commands_tell_of_it_and_promote(tmp_path: Path, origin: Bucket) -> None:
    with running(tmp_path, **rules()) as daemon:
        first = updated(daemon, origin)
        waiting = shown(daemon, first["key"])["update"]["revision"]
        assert "update ready" in cachd(daemon, "ls").stdout
        text = cachd(daemon, "show", first["key"]).stdout
        assert f"{waiting}, ready" in text
        assert f"cachd promote {first['key']}" in text
        done = cachd(daemon, "promote", "s3://models/m")
        assert done.stdout == (
            f"promoted {first['key']} revision {waiting}; before: {first['revision']}\n"
        )
        back = cachd(daemon, "promote", first["key"], first["revision"][:10])
        assert back.returncode == 0, back.stderr
        text = cachd(daemon, "show", first["key"]).stdout
        assert f"no rule takes up again: {waiting}" in text
