"""Asking, listing, removing, pinning, over the real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess

import pytest

from cachd.errors import OriginBusy
from tests.api.conftest import Rig, eventually

URI = "s3://bucket/llama"
FILES = {"config.json": b"{}", "sub/model.safetensors": bytes(range(256)) * 64}


async def test_a_hit_is_answered_with_everything_the_contract_names(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    reply = await rig.ask(URI, lease={"holder": "pod-1", "ttl": 60})
    assert reply.status == 200
    body = reply.json()
    assert body["lease"].pop("id") in rig.cache.held
    assert body == {
        "key": key,
        "revision": "ab" * 16,
        "uri": URI,
        "origin": "memory",
        "update": None,
        "path": rig.cache.snapshots[key].tree,
        "files": 2,
        "bytes": 2 + 16384,
        "result": "hit",
        "shared_flight": False,
        "validated": True,
        "fetched_bytes": 0,
        "mirror": None,
        "upstream": None,
        "upstream_bytes": 0,
        "timings": {"resolve": 0.001, "fetch": 0.002},
        "lease": {
            "key": key,
            "revision": "ab" * 16,
            "holder": "pod-1",
            "ttl": 60,
            "pod": None,
            "until": "ttl",
            "expires_in": 60,
        },
        "view": None,
        "request_id": reply.headers["X-Request-Id"],
    }


async def test_the_caller_is_who_the_kernel_says(rig: Rig) -> None:
    rig.cache.store(URI, FILES)
    await rig.ask(URI)
    caller = rig.cache.callers[-1]
    assert (caller.role, caller.uid, caller.gid, caller.pid) == (
        "pod",
        os.getuid(),
        os.getgid(),
        os.getpid(),
    )


async def test_the_whole_body_reaches_the_cache(rig: Rig) -> None:
    rig.cache.store(URI, FILES)
    pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
    reply = await rig.ask(
        URI,
        timeout=2.5,
        allow=["*.json"],
        ignore=["*.bin"],
        priority="prefetch",
        credentials={
            "access_key_id": "AK",
            "secret_access_key": "SK",
            "session_token": "ST",
            "token": "T",
            "headers": {"h.example": {"X-A": "1"}},
        },
        options={
            "endpoint": "http://e",
            "region": "r",
            "addressing": "path",
            "accelerate": False,
            "verify": False,
            "ca_pem": pem,
            "connect_timeout": 1,
            "read_timeout": 2,
            "max_attempts": 3,
        },
        lease={"holder": "h", "ttl": 9},
    )
    assert reply.status == 200
    ask = rig.cache.asks[-1]
    assert (ask.uri, ask.allow, ask.ignore, ask.priority, ask.timeout) == (
        URI,
        ("*.json",),
        ("*.bin",),
        "prefetch",
        2.5,
    )
    sent = ask.credentials
    assert (sent.access_key, sent.secret_key, sent.session_token) == ("AK", "SK", "ST")
    assert (sent.token, sent.headers) == ("T", (("h.example", (("X-A", "1"),)),))
    options = ask.options
    assert (options.endpoint, options.region, options.addressing) == ("http://e", "r", "path")
    assert (options.accelerate, options.verify, options.ca_pem) == (False, False, pem)
    assert (options.connect_timeout, options.read_timeout, options.max_attempts) == (1, 2, 3)
    assert ask.request_id == reply.headers["X-Request-Id"]
    assert ask.lease is not None
    assert (ask.lease.holder, ask.lease.ttl) == ("h", 9)


async def test_without_waiting_the_fetch_goes_on_by_itself(rig: Rig) -> None:
    key = rig.cache.add(URI, FILES)
    reply = await rig.ask(URI, wait=False)
    assert (reply.status, reply.json()) == (
        202,
        {"key": key, "state": "fetching", "progress": None},
    )
    rig.cache.origins[URI].gate.set()
    await eventually(lambda: key in rig.cache.snapshots)
    assert (await rig.ask(URI, wait=False)).json()["result"] == "hit"


async def test_lists_show_what_the_caller_may_read(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    rig.cache.store("s3://b/private", FILES, is_private=True)
    body = (await rig.call("GET", "/v1/models")).json()
    assert [m["key"] for m in body["models"]] == [key]
    assert body["models"][0] == {
        "key": key,
        "uri": URI,
        "origin": "memory",
        "update": None,
        "allow": [],
        "ignore": [],
        "state": "ready",
        "revision": "ab" * 16,
        "revisions": ["ab" * 16],
        "files": 2,
        "bytes": 16386,
        "allocated": 4096,
        "last_used": "2023-11-14T22:13:20.250Z",
        "pinned": False,
        "credentialed": False,
        "validated": True,
        "leases": 0,
        "corrupt": False,
        "namespace": None,
        "progress": None,
    }
    assert body["store"]["quota"] == 1_000_000
    assert len((await rig.call("GET", "/v1/models", admin=True)).json()["models"]) == 2


async def test_details_have_files_and_leases_for_administrators_alone(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    taken = (await rig.ask(URI, lease={"holder": "pod-1"})).json()["lease"]
    pod = (await rig.call("GET", f"/v1/models/{key}")).json()
    assert [f["path"] for f in pod["manifest_files"]] == ["config.json", "sub/model.safetensors"]
    assert pod["manifest_files"][1]["size"] == 16384
    assert "lease_list" not in pod
    admin = (await rig.call("GET", f"/v1/models/{key}", admin=True)).json()
    assert [lease["holder"] for lease in admin["lease_list"]] == ["pod-1"]
    assert taken["id"] not in json.dumps(admin)


async def test_pins_and_removal(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    pinned = await rig.call("PUT", f"/v1/models/{key}/pin", admin=True)
    assert pinned.json() == {"key": key, "pinned": True}
    refused = await rig.call("DELETE", f"/v1/models/{key}", admin=True)
    assert (refused.status, refused.json()["code"]) == (409, "in_use")
    freed = await rig.call("DELETE", f"/v1/models/{key}?force=true", admin=True)
    assert (freed.status, freed.json()) == (200, {"freed": 4096})
    gone = await rig.call("DELETE", f"/v1/models/{key}/pin", admin=True)
    assert (gone.status, gone.json()["code"]) == (404, "model_unknown")


async def test_leases_live_from_taking_to_release(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    taken = await rig.call("POST", f"/v1/models/{key}/leases", {"holder": "p", "ttl": 5})
    assert taken.status == 201
    path = f"/v1/models/{key}/leases/{taken.json()['id']}"
    assert (await rig.call("PUT", path, {"ttl": 9})).json()["expires_in"] == 9
    assert (await rig.call("DELETE", path)).json() == {"key": key, "released": True}
    again = await rig.call("DELETE", path)
    assert (again.status, again.json()["code"]) == (404, "lease_unknown")
    empty = await rig.call("POST", f"/v1/models/{key}/leases")
    assert (empty.status, empty.json()["ttl"]) == (201, 3600)


async def test_retry_after_is_told_twice(rig: Rig) -> None:
    rig.cache.add(URI, FILES, error=OriginBusy("slow down", retry_after=2.2))
    rig.cache.origins[URI].gate.set()
    reply = await rig.ask(URI)
    assert (reply.status, reply.headers["Retry-After"], reply.json()["retry_after"]) == (
        503,
        "3",
        2.2,
    )


async def test_curl_speaks_to_the_socket(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    base = ["curl", "-sS", "--fail-with-body", "--unix-socket", str(rig.pods)]

    async def curl(*arguments: str) -> bytes:
        done = await asyncio.to_thread(
            subprocess.run, [*base, *arguments], capture_output=True, check=True, timeout=60
        )
        return done.stdout

    answer = json.loads(await curl("-d", json.dumps({"uri": URI}), "http://cachd/v1/models"))
    assert (answer["key"], answer["result"]) == (key, "hit")
    lines = await curl(
        "-N",
        "-H",
        "Accept: application/x-ndjson",
        "-d",
        json.dumps({"uri": URI}),
        "http://cachd/v1/models",
    )
    assert [json.loads(line)["event"] for line in lines.splitlines()] == ["resolving", "ready"]
    ranged = await curl("-r", "10-19", f"http://cachd/v1/models/{key}/files/sub/model.safetensors")
    assert ranged == bytes(range(10, 20))
    assert json.loads(await curl("http://cachd/livez")) == {"alive": True}


async def test_a_body_without_end_is_waited_for_and_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.body.BODY_TIMEOUT", 0.1)

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(rig.pods))
            sock.sendall(b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
            return sock.recv(65536)

    assert b"deadline_exceeded" in await asyncio.to_thread(talk)


async def test_a_lease_is_a_pass_to_the_page_and_to_another_lease(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES, is_private=True)
    lease = (await rig.ask(URI, lease={"holder": "me"})).json()["lease"]
    page, leases = f"/v1/models/{key}", f"/v1/models/{key}/leases"
    assert (await rig.call("GET", page)).status == 404
    assert (await rig.call("POST", leases, {})).status == 403
    for wrong in ({"Cachd-Lease": "another"}, {"Cachd-Lease": ""}):
        assert (await rig.call("GET", page, headers=wrong)).status == 404
        assert (await rig.call("POST", leases, {}, headers=wrong)).status == 403
    pass_ = {"Cachd-Lease": lease["id"]}
    shown = await rig.call("GET", page, headers=pass_)
    assert (shown.status, shown.json()["revision"]) == (200, lease["revision"])
    second = await rig.call("POST", leases, {"holder": "also me"}, headers=pass_)
    assert (second.status, second.json()["holder"]) == (201, "also me")


async def test_the_page_has_checksums_and_a_revision_if_asked(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    page = f"/v1/models/{key}?revision={'ab' * 16}"
    manifest = rig.cache.snapshots[key].manifest
    plain = (await rig.call("GET", page)).json()
    assert "block_size" not in plain
    assert all("checksums" not in file for file in plain["manifest_files"])
    full = (await rig.call("GET", f"{page}&blocks=true")).json()
    assert full["block_size"] == manifest.block_size
    assert [tuple(f["checksums"]) for f in full["manifest_files"]] == [
        f.blocks for f in manifest.files
    ]
    assert (await rig.call("GET", f"/v1/models/{key}?revision=other")).status == 404
    wrong = await rig.call("GET", f"{page}&blocks=maybe")
    assert (wrong.status, wrong.json()["field"]) == (400, "blocks")
