"""Logs on the standard library: text for people, JSON lines for programs, each line with the
request id and key of the task that wrote it.

No filter hunts for secrets: none is ever passed to a logger. What is foreign (a URI, a name from a
source) can't break a line: control characters are escaped in both formats.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.settings import LogSettings

request_id: ContextVar[str] = ContextVar("cachd_request_id", default="")
key: ContextVar[str] = ContextVar("cachd_key", default="")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


@contextlib.contextmanager
def bound(*, request: str | None = None, model: str | None = None) -> Iterator[None]:
    """Within the block, log lines of this task carry the request id and the model's key."""
    tokens: list[tuple[ContextVar[str], Any]] = []
    if request is not None:
        tokens.append((request_id, request_id.set(request)))
    if model is not None:
        tokens.append((key, key.set(model)))
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def escape(text: str) -> str:
    """``text`` on one line: what isn't printable becomes ``\\xNN`` or ``\\uNNNN``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape_character(c) for c in text)


def _escape_character(character: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    if named:
        return named
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave by ``extra``, in its order, after the request id and the key."""
    fields: dict[str, Any] = {}
    if request_id.get():
        fields["request_id"] = request_id.get()
    if key.get():
        fields["key"] = key.get()
    fields.update((k, v) for k, v in record.__dict__.items() if k not in _STANDARD)
    return {k: v for k, v in fields.items() if v is not None}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """``time LEVEL logger message name=value …``; a traceback follows, indented by ``    | ``."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), record.levelname, record.name, escape(record.getMessage())]
        parts += [f"{escape(k)}={_text_value(v)}" for k, v in _fields(record).items()]
        line = " ".join(parts)
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join("\n    | " + escape(part) for part in trace.split("\n"))
        return line


def _text_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        plain = value.isprintable() and value and not set(value) & set(' "=')
        return value if plain else json.dumps(value)
    if isinstance(value, dict):
        return ",".join(f"{escape(str(k))}:{_text_value(v)}" for k, v in value.items()) or "-"
    return escape(str(value))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, key, and the extras."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            entry.setdefault(name, value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configuration(format: Literal["text", "json"] = "text", level: str = "info") -> dict[str, Any]:
    """The ``dictConfig`` data: everything to standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"()": "cachd.logs.TextFormatter"},
            "json": {"()": "cachd.logs.JsonFormatter"},
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": format,
            }
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {"cachd": {"level": level.upper()}},
    }


def configure_logging(settings: LogSettings) -> None:
    """Set up logging for this process."""
    logging.config.dictConfig(configuration(settings.format, settings.level))
