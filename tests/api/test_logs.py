"""Logs: one line each, with request id and key, whatever is in them."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cachd import logs
from cachd.settings import LogSettings

if TYPE_CHECKING:
    from tests.api.conftest import Rig

EVIL = "s3://b/x\n2026-01-01 INFO cachd forged\x1b[2J\r\u2028\u202e\x00end"


def record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("cachd.test")
    return logger.makeRecord(
        "cachd.test", logging.INFO, __file__, 1, message, arguments, None, extra=extra
    )


def test_text_is_one_line_and_shows_what_was_escaped() -> None:
    line = logs.TextFormatter().format(record("asked for %s", EVIL, uri=EVIL, n=3, s=0.123456789))
    assert line.isprintable()
    assert "\\n2026-01-01 INFO cachd forged\\x1b[2J\\r\\u2028\\u202e\\x00end" in line
    assert line.endswith("n=3 s=0.123457")


def test_json_is_one_line_and_gives_back_what_was_put_in() -> None:
    line = logs.JsonFormatter().format(record("asked for %s", EVIL, uri=EVIL, phases={"a": 1.5}))
    assert line.isprintable()
    entry = json.loads(line)
    assert entry["message"] == f"asked for {EVIL}"
    assert (entry["uri"], entry["phases"]) == (EVIL, {"a": 1.5})
    assert (entry["level"], entry["logger"]) == ("info", "cachd.test")
    assert entry["time"].endswith("Z")


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
def test_a_traceback_cant_forge_a_line(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z INFO cachd forged")
    except ValueError:
        entry = record("failed")
        entry.exc_info = sys.exc_info()
    lines = formatter.format(entry).split("\n")
    assert all(line.startswith("    | ") for line in lines[1:])
    assert "ValueError" in "".join(lines)


async def test_each_task_has_its_own_request_id_and_key() -> None:
    async def work(name: str) -> list[str]:
        with logs.bound(request=f"r-{name}", model=f"k-{name}"):
            first = logs.TextFormatter().format(record("one"))
            await asyncio.sleep(0)
            return [first, logs.TextFormatter().format(record("two"))]

    for name, lines in zip("ab", await asyncio.gather(work("a"), work("b")), strict=True):
        assert all(line.endswith(f"request_id=r-{name} key=k-{name}") for line in lines)
    assert "request_id" not in logs.TextFormatter().format(record("three"))


def test_values_that_would_be_ambiguous_are_quoted() -> None:
    line = logs.TextFormatter().format(record("m", a="x y", b='q"', c="", d="k=v", e=None, f="ok"))
    assert line.endswith(r'm a="x y" b="q\"" c="" d="k=v" f=ok')


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_configuration_works_in_a_process(form: str) -> None:
    code = (
        "import logging; from cachd.logs import configure_logging;"
        "from cachd.settings import LogSettings;"
        f"configure_logging(LogSettings(format={form!r}, level='warning'));"
        "logging.getLogger('cachd.x').info('quiet');"
        "logging.getLogger('cachd.x').warning('loud', extra={'a': 1});"
        "logging.getLogger('other').info('quiet')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=True, text=True
    )
    (line,) = done.stderr.splitlines()
    assert "loud" in line
    assert ("a=1" in line) is (form == "text")
    if form == "json":
        assert json.loads(line)["a"] == 1
    assert LogSettings().format == "text"


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_defect_is_logged_once_under_its_key(
    rig: Rig, caplog: pytest.LogCaptureFixture, accept: str
) -> None:
    key = rig.cache.add("s3://b/m", {}, error=ValueError("inner matter"))
    rig.cache.origins["s3://b/m"].gate.set()
    lines: list[str] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logs.TextFormatter().format(record))

    handler = Catch()
    logger = logging.getLogger("cachd.api")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        await rig.call("POST", "/v1/models", {"uri": "s3://b/m"}, headers={"Accept": accept})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    error, summary = lines
    assert "ValueError: inner matter" in error
    assert f"key={key} method=POST endpoint=ask status=500" in summary
    assert "code=internal" in summary


async def test_a_request_has_one_summary_line_with_its_phases(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "cachd")
    key = rig.cache.store("s3://b/m", {"a": b"1"})
    caught: list[str] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "request":
                caught.append(logs.JsonFormatter().format(record))

    handler = Catch()
    logging.getLogger("cachd.api").addHandler(handler)
    try:
        secret = {"token": "s3cr3t-value"}
        reply = await rig.call(
            "POST",
            "/v1/models",
            {"uri": "s3://b/m", "credentials": secret},
            headers={"X-Request-Id": "mine-1", "Authorization": "Bearer s3cr3t-header"},
        )
        await rig.call("GET", "/livez")
    finally:
        logging.getLogger("cachd.api").removeHandler(handler)
    first, second = map(json.loads, caught)
    assert reply.headers["X-Request-Id"] == "mine-1"
    expected = {
        "request_id": "mine-1",
        "key": key,
        "method": "POST",
        "endpoint": "ask",
        "status": 200,
        "role": "pod",
        "result": "hit",
        "phases": {"resolve": 0.001, "fetch": 0.002},
    }
    assert {name: first[name] for name in expected} == expected
    assert first["seconds"] > 0
    assert (second["endpoint"], second["level"]) == ("livez", "debug")
    assert "s3cr3t" not in "".join(caught) + caplog.text
