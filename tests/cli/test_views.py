"""The client's side of views: what is asked, how a view is recognised, what happens without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.test_pull import FILES, URI, tree_of

POD = "0f3c9f6e-0000-4000-8000-000000000001"


@pytest.fixture(autouse=True)
def _in_a_pod(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHD_SOCKET", str(daemon.socket))
    monkeypatch.setenv("POD_UID", POD)
    monkeypatch.setenv("CACHD_VIEW", "auto")
    daemon.add(URI, FILES)


def test_a_destination_that_shows_the_view_is_left_as_it_is(daemon: FakeDaemon, run: Run) -> None:
    dest = daemon.root / "views" / POD
    dest.mkdir(parents=True)
    outcome = run("pull", URI, dest, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["materialised"]["way"] == "view"
    (asked,) = daemon.script.asks
    assert asked["view"] == {"pod": POD, "name": "", "mode": "link"}
    # A view is a lease itself, and outlives this process.
    assert "lease" not in asked
    assert tree_of(dest) == FILES
    assert (dest / "config.json").stat().st_nlink == 2
    assert len(daemon.script.views) == 1
    assert [path for _, path in daemon.script.requests] == ["/v1/models"]


def test_a_destination_below_the_mount_has_a_name_of_its_own(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = daemon.root / "views" / POD
    (mount / "a/b").mkdir(parents=True)
    monkeypatch.setenv("CACHD_VIEW_MOUNT", str(mount))
    monkeypatch.setenv("CACHD_READONLY", "false")
    assert "; view in" in run("pull", URI, mount / "a/b").out
    assert daemon.script.asks[0]["view"] == {"pod": POD, "name": "a/b", "mode": "copy"}
    outcome = run("pull", URI, daemon.root / "elsewhere")
    assert outcome.code == 2
    assert "doesn't lie below" in outcome.err


def test_a_destination_that_does_not_show_it_gets_a_copy_and_the_view_goes(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    outcome = run("pull", URI, tmp_path / "d", "--view-mount", tmp_path, "--json")
    assert outcome.json["materialised"]["way"] in ("copy", "reflink")
    assert tree_of(tmp_path / "d") == FILES
    assert (tmp_path / "d/config.json").stat().st_nlink == 1
    assert daemon.script.views == []
    first, second = daemon.script.asks
    assert "lease" not in first
    assert "view" not in second
    assert second["lease"]["ttl"]


def test_a_view_that_is_seen_does_not_go_with_one_that_is_not(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.script.views.append({"pod": POD, "name": "seen"})
    daemon.script.views.append({"pod": "another", "name": "d"})
    assert run("pull", URI, tmp_path / "d", "--view-mount", tmp_path).code == 0
    assert [view["name"] for view in daemon.script.views] == ["seen", "d", "d"]


def test_always_means_always(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    outcome = run("pull", URI, tmp_path / "d", "--view", "always", "--fallback")
    assert outcome.code == 1
    assert "doesn't show this pod's view" in outcome.err
    assert "subPathExpr" in outcome.err
    assert daemon.script.views == []
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "problem",
    [
        {"code": "request_invalid", "field": "view", "detail": "there is no field view"},
        {"code": "forbidden", "detail": "no pod of this node has the uid"},
        {"code": "store_failed", "detail": "no view can be made here"},
        {"code": "no_space", "detail": "no room for a private copy"},
    ],
)
def test_a_daemon_that_gives_no_view_gives_the_model(
    problem: dict[str, str], daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.script.view_problem = {"status": 400, **problem}
    outcome = run("pull", URI, tmp_path / "d")
    assert outcome.code == 0
    assert f"no view: {problem['detail']}; the model is copied" in outcome.err
    assert tree_of(tmp_path / "d") == FILES
    assert run("pull", URI, tmp_path / "e", "--view", "always").code != 0


def test_what_the_daemon_notes_is_said(daemon: FakeDaemon, run: Run) -> None:
    daemon.script.view_facts = {"until": "ttl", "expires_in": 3600.0, "notes": ["all copies"]}
    dest = daemon.root / "views" / POD
    dest.mkdir(parents=True)
    outcome = run("pull", URI, dest)
    assert "all copies" in outcome.err
    assert "the view ends in 1h00m" in outcome.err


def test_without_a_pod_there_is_no_view(
    daemon: FakeDaemon, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_UID", "")
    assert run("pull", URI, tmp_path / "d").code == 0
    assert "view" not in daemon.script.asks[0]
    outcome = run("pull", URI, tmp_path / "d", "--view", "always")
    assert outcome.code == 2
    assert "POD_UID" in outcome.err


def test_a_holder_in_a_pod_keeps_the_model_as_long_as_the_pod(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("pull", URI, "--holder", "me").code == 0
    assert daemon.script.asks[-1]["lease"] == {"holder": "me", "pod": POD}
    assert run("pull", URI, "--holder", "me", "--lease-ttl", 60).code == 0
    assert daemon.script.asks[-1]["lease"] == {"holder": "me", "ttl": 60.0}
    monkeypatch.delenv("POD_UID")
    assert run("pull", URI, "--holder", "me").code == 0
    assert daemon.script.asks[-1]["lease"] == {"holder": "me"}
