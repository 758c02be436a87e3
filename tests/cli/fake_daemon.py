"""A small daemon that speaks cachd's wire over a Unix socket, with switches for trouble.

It holds its models in a directory like the real one (``snapshots/KEY/REVISION/tree``), so that the
client can be tried with every way of materialising.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from cachd.model import ManifestFile, make_ref
from tests.cli.fake_models import Model, keep, row
from tests.cli.script import Script

if TYPE_CHECKING:
    from pathlib import Path


async def _rounds() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class FakeDaemon:
    def __init__(self, root: Path, socket: Path) -> None:
        self.root = root
        self.socket = socket
        self.script = Script()
        self.models: dict[str, Model] = {}
        (root / "snapshots").mkdir(parents=True, exist_ok=True)
        (root / "layout.json").write_text("{}")
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        started: Future[None] = Future()
        self.socket.unlink(missing_ok=True)
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(started),))
        self._thread.start()
        started.result(10)

    def stop(self) -> None:
        if self._thread is None:
            return
        assert self._loop is not None
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._thread = None
        self.socket.unlink(missing_ok=True)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=2**30, middlewares=[self._middleware])
        app.add_routes(
            [
                web.post("/v1/models", self._ask),
                web.get("/v1/models", self._list),
                web.get("/v1/models/{key}", self._show),
                web.delete("/v1/models/{key}", self._remove),
                web.put("/v1/models/{key}/pin", self._pin),
                web.delete("/v1/models/{key}/pin", self._pin),
                web.put("/v1/models/{key}/leases/{id}", self._renew),
                web.delete("/v1/models/{key}/leases/{id}", self._release),
                web.get("/v1/models/{key}/files/{path:.*}", self._file),
                web.get("/v1/models/{key}/archive.tar", self._archive),
                web.post("/v1/import", self._import),
                web.post("/v1/plan", self._plan),
                web.post("/v1/key", self._key),
                web.post("/v1/gc", self._gc),
                web.get("/openapi.json", self._openapi),
                web.get("/v1/views", self._views),
                web.delete("/v1/views/{pod}", self._remove_views),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(self.socket)).start()
            started.set_result(None)
            await self._stopping.wait()
        finally:
            # A connection whose client has gone already is the server's to close only some rounds
            # after it was accepted; closed transports let go of their sockets some rounds later.
            await _rounds()
            await runner.cleanup()
            await _rounds()

    # --- content ---------------------------------------------------------------------------

    def add(self, uri: str, files: dict[str, bytes]) -> Model:
        model = keep(self.root, uri, files)
        self.models[model.key] = model
        return model

    def grow(self, model: Model, path: str, size: int) -> None:
        """One more file, of zeros that take no space here; without checksums."""
        with (model.tree / path).open("wb") as file:
            file.truncate(size)
        added = ManifestFile(path=path, size=size, blocks=(), digests=())
        model.manifest = replace(model.manifest, files=(*model.manifest.files, added))

    # --- routes ----------------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.script.requests.append((request.method, request.path))
        self.script.authorizations.append(request.headers.get("Authorization", ""))
        if self.script.hang:
            await asyncio.sleep(60)
        if self.script.problem is not None:
            status, problem = self.script.problem
            return _problem(status, **problem)
        if self.script.not_ready:
            self.script.not_ready -= 1
            return _problem(503, code="not_ready", detail="starting", retry_after=0.05)
        response: web.StreamResponse = await handler(request)
        return response

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.script.asks.append(body)
        model = next((m for m in self.models.values() if m.uri == body["uri"]), None)
        if body.get("wait") is False:
            return web.json_response(
                {"key": "0" * 16, "state": "fetching", "progress": {}}, status=202
            )
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await _line(response, {"event": "resolving"})
        await _line(response, {"event": "heartbeat", "elapsed": 0.1})
        progress = {"bytes": 5, "total": 10, "rate": 5.0, "eta": 1.0, "files": []}
        await _line(response, {"event": "progress", "files_done": 0, "files_total": 2, **progress})
        if self.script.break_asks:
            self.script.break_asks -= 1
            assert request.transport is not None
            request.transport.close()
            return response
        if self.script.view_problem and body.get("view"):
            await _line(response, {"event": "error", **self.script.view_problem})
        elif self.script.error_event:
            await _line(response, {"event": "error", **self.script.error_event})
        elif model is None:
            problem = {"code": "not_found", "detail": f"nothing at {body['uri']}", "hint": "look"}
            await _line(response, {"event": "error", **problem})
        else:
            await _line(response, {"event": "ready", **self._answer(model, body)})
        await response.write_eof()
        return response

    def _answer(self, model: Model, body: dict[str, Any]) -> dict[str, Any]:
        lease = None
        if body.get("lease"):
            name = f"lease-{len(self.script.leases)}"
            ttl = body["lease"].get("ttl") or 3600.0
            lease = {
                "id": name,
                "key": model.key,
                "revision": model.revision,
                "holder": body["lease"]["holder"],
                "ttl": ttl,
                "expires_in": ttl,
            }
            self.script.leases[name] = lease
        return {
            "key": model.key,
            "revision": model.revision,
            "uri": model.uri,
            "origin": "fake",
            "path": "/nowhere/at/all" if self.script.hide_path else str(model.tree),
            "files": len(model.manifest.files),
            "bytes": model.size,
            "result": "hit",
            "shared_flight": False,
            "validated": True,
            "fetched_bytes": 0,
            "timings": {},
            "lease": lease,
            "request_id": "req-1",
            **({"view": self._view(model, body["view"])} if body.get("view") else {}),
        }

    def _view(self, model: Model, wanted: dict[str, Any]) -> dict[str, Any]:
        directory = self.root / "views" / wanted["pod"] / (wanted.get("name") or "")
        for file in model.manifest.files:
            target = directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(model.tree / file.path)
        view = {
            **wanted,
            "path": str(directory),
            "device": directory.stat().st_dev,
            "inode": directory.stat().st_ino,
            "new": True,
            "revision": model.revision,
            "files": len(model.manifest.files),
            "until": "pod",
            **self.script.view_facts,
        }
        self.script.views.append(view)
        return view

    async def _views(self, request: web.Request) -> web.Response:
        return web.json_response({"views": self.script.views})

    async def _remove_views(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        self.script.views = [view for view in self.script.views if view["pod"] != pod]
        return web.json_response({"pod": pod, "removed": 1})

    def _model(self, request: web.Request) -> Model:
        model = self.models.get(request.match_info["key"])
        if self.script.forget_once and len(self.script.asks) == 1:
            model = None
        if model is None:
            raise web.HTTPNotFound(
                text=json.dumps(
                    {"code": "model_unknown", "detail": "no such model", "status": 404}
                ),
                content_type="application/problem+json",
            )
        self.script.lease_headers.append(request.headers.get("Cachd-Lease", ""))
        return model

    async def _list(self, request: web.Request) -> web.Response:
        store = {"allocated": 512, "quota": 1024, "free": 4096, "reserved": 0}
        return web.json_response({"models": [row(m) for m in self.models.values()], "store": store})

    async def _show(self, request: web.Request) -> web.Response:
        model = self._model(request)
        if self.script.hide_page and request.headers.get("Cachd-Lease") not in self.script.leases:
            return _problem(404, code="model_unknown", detail="not yours")
        if request.query.get("revision") not in (None, model.revision):
            return _problem(404, code="model_unknown", detail="no such revision")
        files: list[dict[str, Any]] = [
            {"path": f.path, "size": f.size, "etag": None, "blocks": len(f.blocks), "digests": {}}
            for f in model.manifest.files
        ]
        page = {**row(model), "manifest_files": files, "metadata": {}}
        if request.query.get("blocks") == "true":
            page["block_size"] = model.manifest.block_size
            for file, listed in zip(model.manifest.files, files, strict=True):
                listed["checksums"] = list(file.blocks)
        return web.json_response(page)

    async def _remove(self, request: web.Request) -> web.Response:
        model = self._model(request)
        del self.models[model.key]
        return web.json_response({"freed": model.size})

    async def _pin(self, request: web.Request) -> web.Response:
        key = self._model(request).key
        return web.json_response({"key": key, "pinned": request.method == "PUT"})

    async def _renew(self, request: web.Request) -> web.Response:
        self.script.renewals += 1
        return web.json_response(self.script.leases[request.match_info["id"]])

    async def _release(self, request: web.Request) -> web.Response:
        del self.script.leases[request.match_info["id"]]
        return web.Response(status=204)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        model = self._model(request)
        path = request.match_info["path"]
        if self.script.move_after is not None:
            left, files = self.script.move_after
            self.script.move_after = (left - 1, files) if left else None
            if not left:
                model = self.add(model.uri, files)
        if request.query.get("revision") not in (None, model.revision):
            return _problem(404, code="model_unknown", detail="no such revision")
        file = model.tree / path
        await asyncio.sleep(self.script.slow_files)
        if self.script.hold_files is not None:
            await asyncio.to_thread(self.script.hold_files.wait, 30)
        if self.script.stall_files:
            response = web.StreamResponse(headers={"Content-Length": str(file.stat().st_size)})
            await response.prepare(request)
            await response.write(file.read_bytes()[: file.stat().st_size // 2])
            await asyncio.sleep(60)
        if self.script.break_files:
            self.script.break_files -= 1
            response = web.StreamResponse(headers={"Content-Length": str(file.stat().st_size)})
            await response.prepare(request)
            await response.write(file.read_bytes()[: file.stat().st_size // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        if self.script.corrupt == path:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            return web.Response(body=bytes(data))
        return web.FileResponse(file)

    async def _archive(self, request: web.Request) -> web.StreamResponse:
        model = self._model(request)
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        await response.prepare(request)
        members = [(".cachd-manifest.json", json.dumps(model.manifest.to_json()).encode())]
        for file in model.manifest.files:
            data = (model.tree / file.path).read_bytes()
            if self.script.corrupt == file.path:
                data = bytes([data[0] ^ 1]) + data[1:]
            members.append((file.path, data))
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            await response.write(info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512))
        await response.write(bytes(1024))
        await response.write_eof()
        return response

    async def _import(self, request: web.Request) -> web.Response:
        self.script.imported = await request.read()
        files: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(self.script.imported)) as archive:
            for member in archive:
                reader = archive.extractfile(member)
                if reader is not None and member.name != ".cachd-manifest.json":
                    files[member.name] = reader.read()
        return web.json_response(self._answer(self.add(request.query["uri"], files), {}))

    async def _plan(self, request: web.Request) -> web.Response:
        self.script.asks.append(await request.json())
        return web.json_response(self.script.plan)

    async def _key(self, request: web.Request) -> web.Response:
        uri = str((await request.json())["uri"]).removeprefix("cachd+")
        return web.json_response(make_ref(uri=uri, origin="fake", is_default_origin=True).to_json())

    async def _gc(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"evicted": [], "freed": 0, "dry_run": body["dry_run"]})

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response({"openapi": "3.1.0", "info": {"version": "9.9.9"}})


def _problem(status: int, **problem: Any) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps({"type": "about:blank", "status": status, **problem}),
        content_type="application/problem+json",
    )


async def _line(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(json.dumps(event).encode() + b"\n")
