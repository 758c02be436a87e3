"""Our own /openapi.json, driven at random against the real daemon: no 500, no hang, and every
answer is what the document says of it."""

from __future__ import annotations

import http.client
import json
import random
import string
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest

from tests.harness import Daemon, UnixConnection, running
from tests.process.origin import CountingOrigin

_STREAMS = {"/v1/events"}
_WORDS = ["", "a", "..", "é", "\0", "x" * 9000, "%2e%2e", "1e9", "-1", "null", "bytes=0-3", "*",
          '"e"', "bytes=5-1", "bytes=-2", "bytes=99999999999999999999-", "true", 'W/"x"',
          "\udc80", "s3://bucket/m", "http://127.0.0.1:9/x", "file:///etc/passwd", "gs://b/m",
          "🦆", "a b\tc"]  # fmt: skip


class Driver:
    def __init__(self, daemon: Daemon, document: dict[str, Any], known: dict[str, list[str]]):
        self.daemon = daemon
        self.document = document
        self.known = known
        self.random = random.Random(21)
        self.seen: set[tuple[str, int]] = set()
        self.count = 0
        self.operations = [
            (method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if path not in _STREAMS
        ]

    # --- making requests ----------------------------------------------------------------------

    def text(self, name: str = "") -> str:
        if name in self.known and self.random.random() < 0.7:
            return self.random.choice(self.known[name])
        if self.random.random() < 0.6:
            return self.random.choice(_WORDS)
        return "".join(self.random.choices(string.printable, k=self.random.randint(0, 30)))

    def value(self, schema: dict[str, Any], name: str = "", depth: int = 0) -> Any:
        """Of the schema mostly, of any type sometimes."""
        if self.random.random() < 0.06:
            return self.random.choice(
                [None, True, 0, -1, 1.5, 1 << 70, 1e308, "x", [], [1], {}, {"a": {}}, [[[]]]]
            )
        if "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.value(self.random.choice(schema[choice]), name, depth)
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kinds = schema.get("type", "string")
        kind = kinds if isinstance(kinds, str) else self.random.choice(kinds)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return [self.value(schema.get("items", {}), "", depth + 1) for _ in range(2)]
        if kind == "boolean":
            return self.random.random() < 0.5
        if kind in ("number", "integer"):
            low = schema.get("minimum", schema.get("exclusiveMinimum", -3))
            chosen = self.random.choice([low, low + 1, low - 1, 3, 60, 1 << 53])
            return chosen if kind == "integer" else chosen * 0.5
        return None if kind == "null" else self.text(name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        found = {}
        for name, inner in schema.get("properties", {}).items():
            if name == "timeout":
                found[name] = 2
            elif name == "rate":
                # At three bytes a second an answer takes days.
                found[name] = self.random.choice([None, -1, 0, 1 << 40])
            elif name == "max_attempts":
                # Twenty tries at a closed port are slower than this driver's patience.
                found[name] = self.random.choice([None, 0, 1, 2, 21])
            elif name in schema.get("required", ()) or self.random.random() < 0.3 / (depth + 1):
                found[name] = self.value(inner, name, depth + 1)
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            found[self.text("host")] = self.value(extra, "", depth + 1)
        if self.random.random() < 0.03:
            found[self.text()] = 1
        return found

    def body(self, operation: dict[str, Any]) -> tuple[bytes | None, dict[str, str]]:
        content = operation.get("requestBody", {}).get("content", {})
        for kind, media in content.items():
            if kind != "application/json":
                return self.random.randbytes(self.random.choice([0, 10, 512, 2000])), {}
            data = json.dumps(self.value(media["schema"])).encode()
            deed = self.random.random()
            if deed < 0.05:
                data = data[: len(data) // 2]
            elif deed < 0.08:
                data = self.random.choice([b"\xff", b"[" * 50_000, b'{"a":NaN}', b"9" * 6000, b""])
            return data, {"Content-Type": kind}
        return None, {}

    def once(self) -> None:
        method, path, operation = self.operations[self.count % len(self.operations)]
        self.count += 1
        target, headers, query = path, {}, []
        for parameter in operation.get("parameters", ()):
            name, place = parameter["name"], parameter["in"]
            text = self.text(name)
            if parameter["schema"].get("type") == "boolean" and self.random.random() < 0.8:
                text = self.random.choice(["true", "false"])
            text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            if place == "path":
                target = target.replace("{" + name + "}", quote(text, safe="/"))
            elif self.random.random() < 0.4:
                if place == "query":
                    query.append(f"{quote(name)}={quote(text)}")
                elif text.isprintable():
                    headers[name] = text.encode().decode("latin-1")
        if query:
            target += "?" + "&".join(query)
        data, more = self.body(operation)
        status, kind, answer = self.send(method.upper(), target, data, {**headers, **more})
        self.judge(
            method, path, operation, status, kind, answer, f"{method} {target} {data!r} {headers}"
        )

    def send(
        self, method: str, target: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str, bytes]:
        admin = self.random.random() < 0.7
        path = self.daemon.admin_socket if admin else self.daemon.socket
        connection = UnixConnection(path, 20)
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            kind = (response.getheader("Content-Type") or "").partition(";")[0]
            return response.status, kind, response.read()
        finally:
            connection.close()

    @property
    def has_tried_all(self) -> bool:
        """Every operation, and one of them with success."""
        return (
            len({name for name, _ in self.seen}) == len(self.operations)
            and ("post /v1/models", 200) in self.seen
        )

    # --- judging answers ----------------------------------------------------------------------

    def judge(
        self,
        method: str,
        path: str,
        operation: dict[str, Any],
        status: int,
        kind: str,
        answer: bytes,
        asked: str,
    ) -> None:
        assert status != 500, (asked[:1500], answer[:500])
        self.seen.add((f"{method} {path}", status))
        said = operation["responses"].get(str(status))
        if said is None:
            # The path led to no operation, or to another one.
            assert status in (404, 405, 400), (asked[:1500], status, answer[:300])
            return
        if method == "head" or status == 304:
            assert answer == b"", asked
            return
        if kind == "text/plain" and status == 400 and len(asked) > 8000:
            return  # larger than the HTTP library takes: no route sees it
        contents = said.get("content", {})
        if not contents:
            return
        assert kind in contents, (asked[:1500], status, kind)
        if kind in ("application/json", "application/problem+json"):
            components = {"components": self.document["components"]}
            validator = jsonschema.Draft202012Validator({**contents[kind]["schema"], **components})
            problem = next(iter(validator.iter_errors(json.loads(answer))), None)
            assert problem is None, (asked[:1500], problem.message, answer[:500])


@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_the_daemon_is_as_its_document_says(
    tmp_path: Path, origin: CountingOrigin, seconds: int
) -> None:
    body = origin.bodies["/m.bin"] = b"m" * 300_000
    environ = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    with running(
        tmp_path, environ, FRESHNESS_INTERVAL="0", FETCH_BACKOFF_BASE="0.01", FETCH_ATTEMPTS="2"
    ) as daemon:
        uri = f"{origin.url}/m.bin"
        answer = daemon.ask(uri, lease={"holder": "fuzz"}).json()
        document = daemon.admin("GET", "/openapi.json").json()
        driver = Driver(
            daemon,
            document,
            {
                "key": [answer["key"]],
                "revision": [answer["revision"]],
                "id": [answer["lease"]["id"]],
                "Cachd-Lease": [answer["lease"]["id"]],
                "path": ["m.bin"],
                "uri": [uri, uri, f"{origin.url}/none", "s3://bucket/m", "http://127.0.0.1:9/x"],
                "host": ["127.0.0.1"],
                "pod": ["0f8b3c2a-1111-4222-8333-944444444444", "0123456789abcdef" * 2],
                "name": ["m", "deep/er"],
                "endpoint": [origin.url, "http://127.0.0.1:9"],
            },
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not driver.has_tried_all:
            try:
                driver.once()
            except http.client.BadStatusLine as error:
                pytest.fail(f"no answer: {error!r}: {daemon.log()[-1500:]}")
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused while it was still being sent
            except ValueError as error:
                if "control characters" not in str(error) and "header" not in str(error):
                    raise
            if driver.count % 50 == 0:
                daemon.ask(uri)  # somebody may have removed it
        log = daemon.log()
        assert "Traceback" not in log, log[log.find("Traceback") - 500 :][:3000]
        got = daemon.ask(uri)
        assert got.status == 200, got.body
        assert Path(got.json()["path"], "m.bin").read_bytes() == body


@pytest.fixture
def origin() -> Any:
    served = CountingOrigin()
    yield served
    served.close()
