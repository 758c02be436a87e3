"""Bad input: a clear message that names the field, and never what was in it."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachd.api.asking import parse_ask
from cachd.api.body import parse_json
from cachd.errors import CachdError, InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Rig

SECRET = "s3cr3t-Value-That-Must-Not-Leak"
URI = "s3://bucket/m"

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "uri", "uri_invalid"),
    ({"uri": ""}, "uri", "uri_invalid"),
    ({"uri": 3}, "uri", "uri_invalid"),
    ({"uri": "s3://b/\x00"}, "uri", "uri_invalid"),
    ({"uri": "s3://b/" + "x" * 9000}, "uri", "uri_invalid"),
    ({"uri": URI, "wiat": True}, "wiat", "request_invalid"),
    ({"uri": URI, "wait": "yes"}, "wait", "request_invalid"),
    ({"uri": URI, "timeout": 0}, "timeout", "request_invalid"),
    ({"uri": URI, "timeout": True}, "timeout", "request_invalid"),
    ({"uri": URI, "allow": "x"}, "allow", "request_invalid"),
    ({"uri": URI, "allow": ["a", 5]}, "allow.1", "request_invalid"),
    ({"uri": URI, "ignore": [None]}, "ignore.0", "request_invalid"),
    ({"uri": URI, "priority": SECRET}, "priority", "request_invalid"),
    ({"uri": URI, "credentials": SECRET}, "credentials", "request_invalid"),
    (
        {"uri": URI, "credentials": {"secret": SECRET}},
        "credentials.secret",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"access_key_id": SECRET}},
        "credentials.secret_access_key",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"secret_access_key": SECRET}},
        "credentials.access_key_id",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"session_token": SECRET}},
        "credentials.session_token",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"token": [SECRET]}},
        "credentials.token",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"token": SECRET + "\r\nX: y"}},
        "credentials.token",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"token": SECRET, "anonymous": True}},
        "credentials.anonymous",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"headers": {"h": {"Authorization": [SECRET]}}}},
        "credentials.headers.h.Authorization",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"headers": {"h": {f"A: {SECRET}": "x"}}}},
        "credentials.headers.h",
        "request_invalid",
    ),
    (
        {"uri": URI, "credentials": {"headers": {f"h/{SECRET}": {}}}},
        "credentials.headers",
        "request_invalid",
    ),
    ({"uri": URI, "options": {"verify": 1}}, "options.verify", "request_invalid"),
    ({"uri": URI, "options": {"ca_pem": SECRET}}, "options.ca_pem", "request_invalid"),
    ({"uri": URI, "options": {"max_attempts": 0}}, "options.max_attempts", "request_invalid"),
    ({"uri": URI, "options": {"max_attempts": 21}}, "options.max_attempts", "request_invalid"),
    ({"uri": URI, "options": {"read_timeout": 0.5}}, "options.read_timeout", "request_invalid"),
    ({"uri": URI, "options": {"read_timeout": 601}}, "options.read_timeout", "request_invalid"),
    (
        {"uri": URI, "options": {"connect_timeout": 1e9}},
        "options.connect_timeout",
        "request_invalid",
    ),
    ({"uri": URI, "options": {"addressing": "x"}}, "options.addressing", "request_invalid"),
    ({"uri": URI, "lease": {"ttl": -1}}, "lease.ttl", "request_invalid"),
    ({"uri": URI, "lease": {"id": SECRET}}, "lease.id", "request_invalid"),
]


@pytest.mark.parametrize(("body", "field", "code"), WRONG, ids=lambda value: str(value)[:40])
async def test_the_field_at_fault_is_named_and_nothing_leaks(
    rig: Rig, caplog: pytest.LogCaptureFixture, body: dict[str, Any], field: str, code: str
) -> None:
    caplog.set_level(logging.DEBUG)
    reply = await rig.call("POST", "/v1/models", body)
    problem = reply.json()
    assert (reply.status, reply.headers["Content-Type"]) == (400, "application/problem+json")
    assert (problem["field"], problem["code"], problem["status"]) == (field, code, 400)
    assert problem["type"] == "about:blank"
    assert problem["request_id"] == reply.headers["X-Request-Id"]
    assert SECRET not in reply.body.decode() + caplog.text
    assert rig.cache.asks == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"uri": "s3://b/m"',
        b'{"uri": NaN}',
        b'{"uri": "\xff"}',
        b'{"uri": "a", "uri": "b"}',
        b'{"a":' * 100_000,
        b'{"timeout": ' + b"9" * 5000 + b"}",
        b'{"uri": "s3://b/m", "timeout": 1e400}',
        b'{"uri": "s3://b/m", "allow": ["\\udc80"]}',
        b"uri=" + SECRET.encode(),
        b'{"credentials": {"token": "' + SECRET.encode() + b'" "x"}}',
    ],
    ids=lambda data: repr(data[:24]),
)
async def test_what_is_no_json_object_is_refused(
    rig: Rig, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    reply = await rig.call("POST", "/v1/models", data=data)
    assert (reply.status, reply.json()["code"]) == (400, "request_invalid")
    assert SECRET not in reply.body.decode() + caplog.text


async def test_a_misspelt_field_is_told_its_name(rig: Rig) -> None:
    reply = await rig.call("POST", "/v1/models", {"uri": URI, "credentails": {"token": SECRET}})
    assert reply.json()["hint"] == "did you mean credentials?"
    reply = await rig.call("POST", "/v1/models", {"url": URI})
    assert reply.json()["detail"] == "uri is missing; url is no field"


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(rig: Rig, is_chunked: bool) -> None:
    data: Any = b'{"uri": "' + b"x" * (1024 * 1024) + b'"}'
    if is_chunked:

        async def chunks() -> Any:
            for start in range(0, len(data), 65536):
                yield data[start : start + 65536]

        reply = await rig.call("POST", "/v1/models", data=chunks())
    else:
        reply = await rig.call("POST", "/v1/models", data=io.BytesIO(data))
    assert (reply.status, reply.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/nothing", 404, "route_unknown"),
        ("PATCH", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models?colour=red", 400, "request_invalid"),
        ("GET", "/v1/models/xyz", 404, "model_unknown"),
        ("GET", "/v1/models/0123456789abcdef", 404, "model_unknown"),
        ("GET", "/v1/models/..%2f..%2fetc", 404, "model_unknown"),
        ("DELETE", "/v1/models/0123456789abcdef?force=maybe", 400, "request_invalid"),
        ("DELETE", "/v1/models/0123456789abcdef?force=1&force=0", 400, "request_invalid"),
        ("POST", "/v1/import", 400, "uri_invalid"),
    ],
)
async def test_errors_of_http_are_problems_too(
    rig: Rig, method: str, target: str, status: int, code: str
) -> None:
    from yarl import URL

    reply = await rig.call(method, URL(target, encoded=True), admin=True)  # type: ignore[arg-type]
    assert (reply.status, reply.json()["code"], reply.json()["status"]) == (status, code, status)
    assert reply.headers["Content-Type"] == "application/problem+json"
    if status == 405:
        assert reply.headers["Allow"] == "GET,POST"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2:3_x", True), ("", False), ("x" * 65, False), ("a b", False), ("-a", False)],
)
async def test_a_sane_request_id_is_kept(rig: Rig, sent: str, kept: bool) -> None:
    reply = await rig.call("GET", "/livez", headers={"X-Request-Id": sent})
    answered = reply.headers["X-Request-Id"]
    assert (answered == sent) is kept
    assert 1 <= len(answered) <= 64


async def test_a_request_that_cant_be_parsed_is_not_quoted_in_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    import asyncio

    caplog.set_level(logging.DEBUG)
    reader, writer = await asyncio.open_unix_connection(str(rig.pods))
    writer.write(b"GET /livez HTTP/1.1\r\nAuthorization: " + SECRET.encode() + b"\x00\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert "Error handling request" in caplog.text
    assert SECRET not in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["uri", "wait", "timeout", "allow", "credentials", "options", "lease", "headers", "ttl", "x"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=4)))
def test_whatever_comes_is_an_ask_or_an_invalid_error(data: dict[str, Any]) -> None:
    refused, asked = attempt(lambda: parse_ask(data, "r").ask.uri)
    if refused is None:
        assert asked == data["uri"]
    else:
        assert isinstance(refused, InvalidError)
        assert refused.field


def attempt(call: Callable[[], Any]) -> tuple[CachdError | None, Any]:
    try:
        return None, call()
    except CachdError as error:
        return error, None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_bytes_come_are_an_object_or_an_invalid_error(data: bytes) -> None:
    refused, parsed = attempt(lambda: parse_json(data))
    if refused is None:
        assert isinstance(parsed, dict)
    else:
        assert isinstance(refused, InvalidError)
        assert refused.__cause__ is None
        # A parser's exception quotes what it read.
        assert not isinstance(refused.__context__, ValueError)
