"""What a pull leaves in the daemon's log and metrics, and connections that are held for nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import call, eventually, pull, running
from tests.process.test_passes import as_whom, send, serving
from tests.servers.loopback import Handler

BODY = os.urandom(9 * 1024 * 1024)


def private(name: str) -> Callable[[Handler], None]:
    """Answers of an origin that shows its file to ``name`` alone."""

    def answer(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        if handler.headers["Authorization"] != name:
            send(handler, 401)
        elif wanted is None:
            send(handler, 200, BODY)
        else:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = BODY[int(first) : int(last) + 1]
            handler.send_response(206)
            handler.send_header("Content-Length", str(len(part)))
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(BODY)}")
            handler.send_header("ETag", '"e"')
            handler.end_headers()
            handler.wfile.write(part)

    return answer


@pytest.mark.parametrize("options", [[], ["--verify"]])
def test_a_pull_of_a_private_model_has_nothing_to_complain_of(
    tmp_path: Path, options: list[str]
) -> None:
    with serving(private("me")) as host, running(tmp_path) as daemon:
        uri, target = f"http://{host}/m.bin", tmp_path / "out"
        done = pull(daemon, uri, target, "--header", "Authorization: me", *options)
        assert done.returncode == 0, done.stderr
        assert (target / "m.bin").read_bytes() == BODY
        key = daemon.admin("GET", "/v1/models").json()["models"][0]["key"]
        # To a caller without a pass there is no such model.
        assert call(daemon.socket, "GET", f"/v1/models/{key}").status == 404
        eventually(lambda: daemon.metric("cachd_requests_total", endpoint="ask", code="200") == 1)
        for endpoint in ("show", "file", "archive"):
            assert daemon.metric("cachd_requests_total", endpoint=endpoint, code="499") == 0
        assert daemon.metric("cachd_requests_total", endpoint="show", code="200") == 1
        assert daemon.metric("cachd_requests_total", endpoint="show", code="404") == 1
        assert daemon.metric("cachd_requests_total", endpoint="archive", code="200") == 0
        assert daemon.metric("cachd_requests_total", endpoint="ask", code="499") == 0
        assert " ERROR " not in daemon.log()


def test_a_lease_is_a_pass_to_the_page_of_its_own_revision(tmp_path: Path) -> None:
    body = [b"one"]

    def answer(handler: Handler) -> None:
        if not handler.headers["Authorization"]:
            return send(handler, 401)
        return send(handler, 200, body[0], etag=body[0].decode())

    with serving(answer) as host, running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        uri = f"http://{host}/m.bin"
        old = daemon.ask(uri, credentials=as_whom(host, "a"), lease={"holder": "a"}).json()
        body[0] = b"second"
        new = daemon.ask(uri, credentials=as_whom(host, "b")).json()
        assert new["revision"] != old["revision"]
        page = f"/v1/models/{old['key']}"
        header = {"Cachd-Lease": old["lease"]["id"]}
        assert call(daemon.socket, "GET", page).status == 404
        shown = call(daemon.socket, "GET", f"{page}?blocks=true", headers=header).json()
        assert (shown["revision"], shown["revisions"]) == (old["revision"], [old["revision"]])
        (file,) = shown["manifest_files"]
        assert (file["size"], file["blocks"]) == (3, len(file["checksums"]))
        other = f"{page}?revision={new['revision']}"
        assert call(daemon.socket, "GET", other, headers=header).status == 404
        assert daemon.admin("GET", other).json()["manifest_files"][0]["size"] == 6
        # It is a pass to a lease of its own revision, and of no other.
        again = call(daemon.socket, "POST", f"{page}/leases", {"holder": "b"}, headers=header)
        assert (again.status, again.json()["revision"]) == (201, old["revision"])
        wanted = {"holder": "b", "revision": new["revision"]}
        refused = call(daemon.socket, "POST", f"{page}/leases", wanted, headers=header)
        assert (refused.status, refused.json()["code"]) == (403, "forbidden")


def test_idle_connections_of_one_pod_shut_nobody_out(tmp_path: Path) -> None:
    held: list[socket.socket] = []
    with running(tmp_path, LISTEN_MAX_CONNECTIONS="40") as daemon:
        try:
            for _ in range(100):
                held.append(socket.socket(socket.AF_UNIX))
                held[-1].connect(str(daemon.socket))
            refused = "cachd_connections_refused_total"
            eventually(lambda: daemon.metric(refused, reason="uid") == 70)
            assert daemon.admin("GET", "/readyz").status == 200
        finally:
            for one in held:
                one.close()
        daemon.wait_ready()


def test_too_many_leases_are_told_with_the_way_out(tmp_path: Path) -> None:
    def answer(handler: Handler) -> None:
        send(handler, 200, b"x")

    with serving(answer) as host, running(tmp_path, LEASES_MAX_PER_KEY="2") as daemon:
        uri = f"http://{host}/m.bin"
        key = daemon.ask(uri, lease={"holder": "a"}).json()["key"]
        leases = f"/v1/models/{key}/leases"
        assert call(daemon.socket, "POST", leases, {}).status == 201
        refused = call(daemon.socket, "POST", leases, {})
        assert (refused.status, refused.json()["code"]) == (429, "too_many_leases")
        assert "leases.max_per_key" in refused.json()["hint"]
        assert daemon.ask(uri, lease={"holder": "b"}).status == 429
        # Reading takes none.
        assert call(daemon.socket, "GET", f"/v1/models/{key}/archive.tar").status == 200
        assert daemon.admin("GET", "/v1/models").json()["models"][0]["leases"] == 2
