"""A model as both hubs have it, and the calls under test at either of their fakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sources.asking import NONE, probe_once, resolve_once

if TYPE_CHECKING:
    from cachd.credentials import Credentials
    from cachd.model import Plan
    from tests.servers.repositories import RepositoryServer

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "onnx/model.onnx": b"onnx",
    "onnx/fp16/model.onnx": b"half",
    "onnx-old/model.onnx": b"sibling",
    "__init__.py": b"",
}


async def plan(
    hub: RepositoryServer, uri: str, credentials: Credentials = NONE, **more: Any
) -> Plan:
    return await resolve_once(uri, credentials, endpoint=hub.url, **more)


async def probe(
    hub: RepositoryServer, uri: str, path: str, credentials: Credentials = NONE
) -> None:
    await probe_once(uri, path, credentials, endpoint=hub.url)
