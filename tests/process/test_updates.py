"""New revisions of what is cached: who gets what until they are promoted, and afterwards."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, call, eventually, running
from tests.origins.bucket import Bucket
from tests.origins.fault import Fault, pattern
from tests.process.following import cachd, followed

MIB = 1024 * 1024
WEIGHTS, CONFIG = "/models/m/weights.bin", "/models/m/config.json"
POD, NEXT = "0f8b3c2a-1111-4222-8333-944444444444", "1f8b3c2a-1111-4222-8333-944444444444"
OLD, NEW, LAST = b"{}", b'{"new": 1}', b'{"last": 2}'


@pytest.fixture
def origin() -> Iterator[Bucket]:
    with Bucket() as one:
        one.put(WEIGHTS, pattern(3 * MIB))
        one.put(CONFIG, OLD)
        yield one


def rules(move: str = "manual", every: Any = 0.3, **more: Any) -> dict[str, str]:
    rule = {"match": "s3://*", "every": every, "move": move, **more}
    return {"FRESHNESS_REFRESH": json.dumps([rule]), "FRESHNESS_INTERVAL": "0"}


def ask(daemon: Daemon, origin: Bucket, **more: Any) -> dict[str, Any]:
    options = {"endpoint": origin.base, "region": "us-east-1"}
    reply = daemon.ask("s3://models/m", options=options, **more)
    return {"status": reply.status, **reply.json()}


def shown(daemon: Daemon, key: str) -> dict[str, Any]:
    found = daemon.admin("GET", f"/v1/models/{key}").json()
    assert isinstance(found, dict)
    return found


def promote(daemon: Daemon, key: str, revision: str | None = None) -> dict[str, Any]:
    body = {"revision": revision} if revision else None
    reply = daemon.admin("POST", f"/v1/models/{key}/promote", body)
    return {"status": reply.status, **reply.json()}


def config(answer: dict[str, Any]) -> bytes:
    return (Path(answer["path"]) / "config.json").read_bytes()


def state(daemon: Daemon, key: str) -> str | None:
    update = shown(daemon, key)["update"]
    return update and update["state"]


def promoter(daemon: Daemon, key: str) -> str:
    """Who made it current: what was fetched for that is current a moment before it is told."""
    promoted = shown(daemon, key)["promoted"]
    return str(promoted["by"]) if promoted else ""


def updated(daemon: Daemon, origin: Bucket, data: bytes = NEW) -> dict[str, Any]:
    """The model as it is given, after its source has another one that is here too."""
    first = ask(daemon, origin)
    origin.put(CONFIG, data)
    eventually(lambda: state(daemon, first["key"]) == "ready")
    return first


def test_a_new_revision_waits_until_a_person_promotes_it(tmp_path: Path, origin: Bucket) -> None:
    # By schedule in an hour alone, so that what the source is asked is counted.
    with running(tmp_path, **rules(every="1h")) as daemon, followed(daemon) as events:
        first = ask(daemon, origin, view={"pod": POD})
        key = first["key"]
        origin.put(CONFIG, NEW)
        assert ask(daemon, origin)["revision"] == first["revision"]
        eventually(lambda: state(daemon, key) == "ready")
        sent = origin.bytes_sent(WEIGHTS)
        assert first["update"] is None
        # Whoever asks has the old one as a hit, though the source is asked each time.
        lists = origin.lists
        answer = ask(daemon, origin)
        assert origin.lists == lists + 1
        assert (answer["result"], answer["revision"]) == ("hit", first["revision"])
        update = answer["update"]
        assert (update["state"], update["move"], update["approved"]) == ("ready", "manual", False)
        assert shown(daemon, key)["update"] == update
        assert daemon.metric("cachd_updates_waiting") == 1
        # It lies beside it, with what they have in common as one file.
        assert origin.bytes_sent(WEIGHTS) == sent == 3 * MIB
        trees = [
            daemon.root / "snapshots" / key / r / "tree" for r in shown(daemon, key)["revisions"]
        ]
        assert len({(tree / "weights.bin").stat().st_ino for tree in trees}) == 1
        done = promote(daemon, key)
        assert done == {
            "status": 200,
            "key": key,
            "revision": update["revision"],
            "previous": first["revision"],
            "state": "promoted",
        }
        answer = ask(daemon, origin)
        assert (answer["result"], answer["revision"]) == ("hit", update["revision"])
        assert (answer["update"], config(answer)) == (None, NEW)
        assert shown(daemon, key)["promoted"]["by"].startswith("admin")
        page = call(daemon.socket, "GET", f"/v1/models/{key}").json()
        assert (page["revision"], page["promoted"]) == (update["revision"], None)
        assert daemon.metric("cachd_updates_waiting") == 0
        # A pod that runs keeps what it has, a new one gets the new one.
        again = ask(daemon, origin, view={"pod": POD})
        assert again["revision"] == first["revision"]
        assert (daemon.root / "views" / POD / "config.json").read_bytes() == OLD
        assert ask(daemon, origin, view={"pod": NEXT})["revision"] == update["revision"]
        for each in ("seen", "ready", "promoted"):
            assert daemon.metric("cachd_updates_total", state=each) == 1
        names = ("update_seen", "update_ready", "promoted")
        eventually(lambda: [e["event"] for e in events if e["event"] in names] == list(names))
        told = next(e for e in events if e["event"] == "promoted")
        assert (told["revision"], told["previous"]) == (update["revision"], first["revision"])


def test_going_back_stays_until_something_newer_comes(tmp_path: Path, origin: Bucket) -> None:
    settings = {"FRESHNESS_INTERVAL": "0"}
    with running(tmp_path, **settings) as daemon:
        first = ask(daemon, origin)
        origin.put(CONFIG, NEW)
        second = ask(daemon, origin)
        key = first["key"]
        assert second["revision"] != first["revision"]
        assert promote(daemon, key, first["revision"])["previous"] == second["revision"]
        for _ in range(2):
            answer = ask(daemon, origin)
            assert (answer["result"], answer["revision"]) == ("hit", first["revision"])
        assert shown(daemon, key)["promoted"]["refused"] == [second["revision"]]
        daemon.kill()
        daemon.start()
        assert ask(daemon, origin)["revision"] == first["revision"]
        origin.put(CONFIG, LAST)
        assert config(ask(daemon, origin)) == LAST
        origin.put(CONFIG, NEW)
        assert config(ask(daemon, origin)) == LAST
        assert promote(daemon, key, second["revision"])["state"] == "promoted"
        assert config(ask(daemon, origin)) == NEW


def test_a_window_moves_it_and_a_shut_one_does_not(tmp_path: Path, origin: Bucket) -> None:
    """Whatever the hour is, one of these is open and the other is not."""
    days = "Mon,Tue,Wed,Thu,Fri,Sat,Sun"
    with running(tmp_path, **rules("schedule", window=f"{days} 00:00-24:00")) as daemon:
        first = ask(daemon, origin)
        origin.put(CONFIG, NEW)
        eventually(lambda: shown(daemon, first["key"])["revision"] != first["revision"])
        assert ask(daemon, origin)["result"] == "hit"
        eventually(lambda: promoter(daemon, first["key"]) == "schedule")
        second = shown(daemon, first["key"])["revision"]
    environ = {"TZ": "UTC"}
    shut = shut_window()
    with running(tmp_path, environ, **rules("schedule", window=shut)) as daemon:
        origin.put(CONFIG, LAST)
        eventually(lambda: state(daemon, first["key"]) == "ready")
        assert ask(daemon, origin)["revision"] == second
        update = shown(daemon, first["key"])["update"]
        assert update["window"] == [shut]
    # It opens: what waits moves without anybody asking, and without its source.
    origin.list_fault = Fault("status", status=503)
    open_ = rules("schedule", window="00:00-24:00")
    with running(tmp_path, environ, **open_) as daemon:
        eventually(lambda: shown(daemon, first["key"])["revision"] == update["revision"])


def shut_window() -> str:
    """An hour that is far away."""
    hour = (datetime.now(UTC).hour + 12) % 24
    return f"{hour:02}:00-{hour:02}:59"


def test_a_digest_that_only_the_newer_one_has_gets_that(tmp_path: Path, origin: Bucket) -> None:
    new = {"config.json": f"sha256:{hashlib.sha256(NEW).hexdigest()}"}
    old = {"config.json": f"sha256:{hashlib.sha256(OLD).hexdigest()}"}
    wrong = {"config.json": f"sha256:{'0' * 64}"}
    with running(tmp_path, **rules(every="1h", ahead=False)) as daemon:
        first = ask(daemon, origin)
        origin.put(CONFIG, NEW)
        assert config(ask(daemon, origin, digests=old)) == OLD
        assert ask(daemon, origin)["update"]["state"] == "seen"
        answer = ask(daemon, origin, digests=new)
        assert (answer["result"], config(answer), answer["update"]) == ("miss", NEW, None)
        assert ask(daemon, origin, digests=new)["result"] == "hit"
        # The others are given what is current, as before.
        assert ask(daemon, origin)["revision"] == first["revision"]
        assert state(daemon, first["key"]) == "ready"
        assert ask(daemon, origin, digests=wrong)["code"] == "digest_mismatch"


@pytest.mark.parametrize("is_ready", [True, False], ids=["ready", "in mid-fetch"])
def test_killed_between_fetch_and_promotion(tmp_path: Path, origin: Bucket, is_ready: bool) -> None:
    with running(tmp_path, **rules()) as daemon:
        first = ask(daemon, origin)
        key = first["key"]
        hold = threading.Event()
        if not is_ready:
            origin.upon(CONFIG, 1, hold.wait)
        origin.put(CONFIG, NEW)
        eventually(lambda: state(daemon, key) == ("ready" if is_ready else "seen"))
        daemon.kill()
        hold.set()
        daemon.start()
        assert shown(daemon, key)["revision"] == first["revision"]
        answer = ask(daemon, origin)
        assert (answer["result"], answer["revision"]) == ("hit", first["revision"])
        eventually(lambda: state(daemon, key) == "ready")
        assert promote(daemon, key)["state"] == "promoted"
        daemon.kill()
        daemon.start()
        assert config(ask(daemon, origin)) == NEW
        assert origin.bytes_sent(WEIGHTS) == 3 * MIB


def test_what_was_only_seen_is_fetched_once_it_is_approved(tmp_path: Path, origin: Bucket) -> None:
    with running(tmp_path, **rules(ahead=False)) as daemon:
        first = ask(daemon, origin)
        origin.put(CONFIG, NEW)
        eventually(lambda: state(daemon, first["key"]) == "seen")
        gets = origin.requests()
        done = promote(daemon, first["key"])
        assert (done["status"], done["previous"]) == (202, first["revision"])
        eventually(lambda: shown(daemon, first["key"])["revision"] == done["revision"])
        assert origin.requests() == gets + 1
        eventually(lambda: promoter(daemon, first["key"]).startswith("admin"))
        assert config(ask(daemon, origin)) == NEW


def test_what_needs_a_callers_pass_is_fetched_ahead_with_it(tmp_path: Path, origin: Bucket) -> None:
    """And its source is asked no more often than it is for what is current."""
    keys = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "not-a-secret"}
    settings = {**rules(every="1h"), "FRESHNESS_INTERVAL": "3600"}
    with running(tmp_path, **settings) as daemon:
        first = ask(daemon, origin, credentials=keys)
    with running(tmp_path, **settings) as daemon:
        origin.put(CONFIG, NEW)
        lists = origin.lists
        for _ in range(4):
            answer = ask(daemon, origin, credentials=keys)
            assert (answer["result"], answer["revision"]) == ("hit", first["revision"])
        assert origin.lists == lists + 1
        eventually(lambda: state(daemon, first["key"]) == "ready")
        # Who shows no pass is asked for at the source: that says yes to anybody here.
        assert ask(daemon, origin)["revision"] == first["revision"]


@pytest.mark.parametrize("is_pinned", [False, True])
def test_what_waits_is_no_old_revision_to_be_cleared_away(
    tmp_path: Path, origin: Bucket, is_pinned: bool
) -> None:
    with running(tmp_path, **rules(), STORE_QUOTA="16MiB", STORE_MIN_IDLE="0") as daemon:
        first = updated(daemon, origin)
        key = first["key"]
        if is_pinned:
            assert daemon.admin("PUT", f"/v1/models/{key}/pin").status == 200
        assert daemon.admin("POST", "/v1/gc", {}).json()["evicted"] == []

        def would_go() -> list[str]:
            body = {"target": 0, "dry_run": True}
            gone = daemon.admin("POST", "/v1/gc", body).json()["evicted"]
            return [row["reason"] for row in gone]

        # Once its fetch has let go of it.
        eventually(lambda: would_go() == ([] if is_pinned else ["requested"] * 2))


def test_what_made_room_is_fetched_again_only_to_be_promoted(
    tmp_path: Path, origin: Bucket
) -> None:
    """Somebody has the current one, so that what waits is all that can go for another model."""
    origin.put("/models/big/w.bin", pattern(15 * MIB))
    with running(tmp_path, **rules(), STORE_QUOTA="20MiB") as daemon:
        first = ask(daemon, origin, lease={"holder": "test"})
        key = first["key"]
        origin.put(WEIGHTS, pattern(3 * MIB)[::-1])
        eventually(lambda: state(daemon, key) == "ready")
        gets = origin.requests(WEIGHTS)

        def is_big_here() -> bool:
            """Once the fetch has let go of what waits."""
            options = {"endpoint": origin.base, "region": "us-east-1"}
            return daemon.ask("s3://models/big", options=options).status == 200

        eventually(is_big_here)
        assert shown(daemon, key)["revisions"] == [first["revision"]]
        assert ask(daemon, origin)["revision"] == first["revision"]
        assert state(daemon, key) == "seen"
        looks = daemon.metric("cachd_refreshes_total", result="held")
        eventually(lambda: daemon.metric("cachd_refreshes_total", result="held") >= looks + 2)
        assert origin.requests(WEIGHTS) == gets
        assert promote(daemon, key)["status"] == 202
        eventually(lambda: shown(daemon, key)["revision"] != first["revision"])
        assert origin.requests(WEIGHTS) > gets


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
