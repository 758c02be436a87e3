"""The document is true to the code, and the code to the document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from cachd import errors
from cachd.api import problem
from cachd.api.app import build_app
from cachd.api.asking import parse_ask
from cachd.api.openapi import build_document
from cachd.api.routes import ROUTES
from cachd.api.schemas import SCHEMAS
from cachd.errors import CachdError
from cachd.metrics import Metrics
from cachd.settings import Settings
from tests.api.memory import MemoryCache

if TYPE_CHECKING:
    from pathlib import Path

    from tests.api.conftest import Rig

URI = "s3://b/m"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build_document(ROUTES)


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """``value`` is what ``schema`` says; members that no schema names are errors here."""
    components = {"components": document["components"]}
    jsonschema.Draft202012Validator({**schema, **components}).validate(value)
    known = schema
    while "$ref" in known:
        known = SCHEMAS[known["$ref"].rpartition("/")[2]]
    if known.get("type") == "object" and "additionalProperties" not in known:
        assert set(value) <= set(known["properties"]), set(value) - set(known["properties"])


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")


async def test_every_route_is_in_it_and_the_other_way_round(rig: Rig, tmp_path: Path) -> None:
    served = (await rig.call("GET", "/openapi.json")).json()
    described = {
        (method.upper(), path) for path, methods in served["paths"].items() for method in methods
    }
    app = build_app(MemoryCache(tmp_path), role="admin", settings=Settings(), metrics=Metrics())
    registered = {
        (route.method, re.sub(r":[^}]+}", "}", str(route.resource.canonical)))
        for route in app.router.routes()
        if route.resource is not None
    }
    assert described == registered
    assert len(described) == len(ROUTES)


def test_no_schema_is_unused_and_none_is_missing(document: dict[str, Any]) -> None:
    used = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert used == set(SCHEMAS)


def test_every_error_has_a_status_and_a_code_of_its_own() -> None:
    kinds = [CachdError, *_below(CachdError)]
    for kind in kinds:
        status, title = problem.lookup(kind)
        assert 400 <= status <= 599
        assert title
    codes = [kind.code for kind in kinds if kind is not CachdError]
    assert len(codes) == len(set(codes))
    assert not set(codes) & set(problem.HTTP_CODES.values())


def _below(kind: type[CachdError]) -> list[type[CachdError]]:
    return [k for child in kind.__subclasses__() for k in (child, *_below(child))]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NoSpace("x"), 507),
        (errors.TooLarge("x"), 507),
        (errors.UriInvalid("x"), 400),
        (errors.SchemeUnknown("x"), 400),
        (errors.Forbidden("x"), 403),
        (errors.EgressForbidden("x"), 403),
        (errors.AccessError("x"), 403),
        (errors.CredentialsMissing("x"), 401),
        (errors.CredentialsInvalid("x"), 401),
        (errors.NotFound("x"), 404),
        (errors.ModelUnknown("x"), 404),
        (errors.InUse("x"), 409),
        (errors.OriginError("x"), 502),
        (errors.OriginUnreachable("x"), 502),
        (errors.OriginStalled("x"), 504),
        (errors.DeadlineExceeded("x"), 504),
        (errors.OriginBusy("x"), 503),
        (errors.Offline("x"), 503),
        (errors.NotReady("x"), 503),
        (errors.Draining("x"), 503),
        (errors.DigestMismatch("x"), 422),
        (errors.PathUnsafe("x"), 422),
        (errors.InternalError("x"), 500),
        (errors.DiskFull("x"), 507),
    ],
    ids=lambda value: getattr(value, "code", str(value)),
)
def test_statuses(error: CachdError, status: int, document: dict[str, Any]) -> None:
    body = problem.to_problem(error, "r")
    assert (body["status"], body["code"]) == (status, error.code)
    check(document, {"$ref": "#/components/schemas/Problem"}, body)
    response = problem.respond(error, "r")
    assert (response.status, response.content_type) == (status, "application/problem+json")
    assert ("WWW-Authenticate" in response.headers) is (status == 401)
    waits = isinstance(error, errors.OriginBusy | errors.NotReady)
    assert ("Retry-After" in response.headers) is waits


def test_facts_never_hide_the_standard_members() -> None:
    error = errors.NoSpace("no room", needed=5, status="mine", code="mine", detail="mine")
    body = problem.to_problem(error, "r")
    assert (body["needed"], body["status"], body["code"]) == (5, 507, "no_space")
    assert body["detail"] == "no room"


async def test_answers_are_what_the_document_says(rig: Rig, document: dict[str, Any]) -> None:
    key = rig.cache.store(URI, {"a": b"1"})
    rig.cache.add("s3://b/later", {"a": b"1"})
    calls: list[tuple[str, str, Any]] = [
        ("ask", "/v1/models", {"uri": URI, "lease": {"holder": "h"}}),
        ("ask", "/v1/models", {"uri": "s3://b/later", "wait": False}),
        ("ask", "/v1/models", {"uri": "s3://b/none"}),
        ("ask", "/v1/models", {"uri": 5}),
        ("list", "/v1/models", None),
        ("show", f"/v1/models/{key}", None),
        ("pin", f"/v1/models/{key}/pin", None),
        ("remove", f"/v1/models/{key}", None),
        ("unpin", f"/v1/models/{key}/pin", None),
        ("lease", f"/v1/models/{key}/leases", {"holder": "h", "ttl": 5}),
        ("plan", "/v1/plan", {"uri": URI}),
        ("gc", "/v1/gc", {"dry_run": True}),
        ("verify", f"/v1/models/{key}/verify", {"repair": True}),
        ("verify_all", "/v1/verify", None),
        ("verify_all", "/v1/verify", {"rate": -1}),
        ("livez", "/livez", None),
        ("readyz", "/readyz", None),
        ("release", f"/v1/models/{key}/leases/none", None),
        ("remove", f"/v1/models/{key}?force=true", None),
    ]
    routes = {route.name: route for route in ROUTES}
    for name, target, body in calls:
        route = routes[name]
        reply = await rig.call(route.method, target, body, admin=True)
        response = document["paths"][route.path][route.method.lower()]["responses"][
            str(reply.status)
        ]
        media = reply.headers["Content-Type"].partition(";")[0]
        check(document, response["content"][media]["schema"], reply.json())


VALID: list[dict[str, Any]] = [
    {"uri": URI},
    {"uri": URI, "wait": None, "timeout": None, "allow": None, "credentials": None},
    {"uri": URI, "wait": False, "timeout": 0.5, "allow": ["a"], "ignore": [], "lease": {}},
    {
        "uri": URI,
        "priority": "prefetch",
        "credentials": {"headers": {"h": {"A": "b"}, "i": None}, "anonymous": False},
        "options": {"addressing": None, "verify": False, "max_attempts": 2},
    },
]
INVALID: list[dict[str, Any]] = [
    {},
    {"uri": URI, "x": 1},
    {"uri": URI, "timeout": 0},
    {"uri": URI, "priority": "urgent"},
    {"uri": URI, "options": {"max_attempts": 0}},
    {"uri": URI, "credentials": {"secret": "x"}},
    {"uri": URI, "lease": {"ttl": "1"}},
]


@pytest.mark.parametrize("body", VALID, ids=str)
def test_what_the_schema_takes_the_parser_takes(
    body: dict[str, Any], document: dict[str, Any]
) -> None:
    check(document, {"$ref": "#/components/schemas/Ask"}, body)
    assert parse_ask(body, "r").ask.uri == URI


@pytest.mark.parametrize("body", INVALID, ids=str)
def test_what_the_schema_refuses_the_parser_refuses(
    body: dict[str, Any], document: dict[str, Any]
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(document, {"$ref": "#/components/schemas/Ask"}, body)
    with pytest.raises(errors.InvalidError):
        parse_ask(body, "r")


def test_the_parser_knows_exactly_the_fields_of_the_schema() -> None:
    for place, schema in (
        ((), "Ask"),
        (("credentials",), "Credentials"),
        (("options",), "Options"),
        (("lease",), "LeaseRequest"),
    ):
        inner: dict[str, Any] = {"zzzz": 1}
        body: dict[str, Any] = {"uri": URI, **inner} if not place else {"uri": URI, place[0]: inner}
        with pytest.raises(errors.InvalidError) as refused:
            parse_ask(body, "r")
        listed = refused.value.hint.removeprefix("known here: ").split(", ")
        assert set(listed) == set(SCHEMAS[schema]["properties"])
