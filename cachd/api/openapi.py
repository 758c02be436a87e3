"""The OpenAPI 3.1 document, made from the table of routes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cachd import __version__, errors
from cachd.api import problem
from cachd.api.schemas import SCHEMAS
from cachd.api.shapes import KEY, POD, TEXT, ref

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachd.api.routing import Parameter, Route

_DESCRIPTION = """\
The model cache of a Kubernetes node.

Two Unix sockets carry this API. Pods ask, lease and read; what is marked *administrators* answers
403 (`forbidden`) there. The health listener carries `/livez`, `/readyz` and `/metrics` alone. Over
TCP the API wants TLS and a bearer token.

Errors are `application/problem+json` with a stable `code` and a `hint` of what to do next. Send
`X-Request-Id` to find a request in the daemon's log; the answer has it, too.
"""

_PATH_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "key": (KEY, "a model's key"),
    "id": (TEXT, "a lease's id"),
    "pod": (POD, "a pod's uid"),
    "path": (TEXT, "a file's path in the model; its slashes are slashes"),
}

_EVERYWHERE: tuple[type[errors.CachdError], ...] = (errors.InvalidError, errors.InternalError)


def build_document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document as data."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cachd",
            "version": __version__,
            "summary": "Ask for a URI, get a verified model on local disk.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "over the Unix socket"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Over TCP only. On a Unix socket the kernel says who asks.",
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    notes = [route.description] if route.description else []
    if route.is_admin:
        notes.append("*Administrators.*")
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "x-cachd-role": "admin" if route.is_admin else "pod",
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if notes:
        operation["description"] = "\n\n".join(notes)
    if route.body:
        operation["requestBody"] = {
            "required": route.is_body_required,
            "content": {media: {"schema": schema} for media, schema in route.body.items()},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PATH_PARAMETERS[name][0],
            "description": _PATH_PARAMETERS[name][1],
        }
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    return found + [_parameter(parameter) for parameter in route.parameters]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.is_required,
        "schema": parameter.schema,
        "description": parameter.description,
    }


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for reply in route.replies:
        response: dict[str, Any] = {"description": reply.description}
        if reply.content:
            response["content"] = {m: {"schema": s} for m, s in reply.content.items()}
        responses[str(reply.status)] = response
    for status, codes in sorted(error_codes(route).items()):
        response = responses.setdefault(str(status), {"description": ""})
        told = "code: " + ", ".join(sorted(codes))
        response["description"] = " ".join(filter(None, (response["description"], told)))
        content = response.setdefault("content", {})
        content[problem.CONTENT_TYPE] = {"schema": ref("Problem")}
    return responses


def error_codes(route: Route) -> dict[int, set[str]]:
    """The codes that a route may answer, by HTTP status."""
    kinds = set(_EVERYWHERE) | set(route.errors)
    if route.is_admin:
        kinds.add(errors.Forbidden)
    if route.is_ask:
        kinds.add(errors.Draining)
    found: dict[int, set[str]] = {}
    for kind in kinds:
        found.setdefault(problem.lookup(kind)[0], set()).add(kind.code)
    for status in (*route.http_errors, *((413,) if "application/json" in route.body else ())):
        found.setdefault(status, set()).add(problem.HTTP_CODES[status])
    return found
