"""Written answers for origins."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.servers.loopback import OCTETS


def file(content_type: str = OCTETS, body: bytes = b"12345", **headers: str) -> Any:
    async def respond(_: web.BaseRequest) -> web.Response:
        answer = web.Response(
            body=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer.headers["Content-Type"] = content_type
        return answer

    return respond


def status(code: int, **headers: str) -> Any:
    async def respond(_: web.BaseRequest) -> web.Response:
        return web.Response(
            status=code, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return respond
