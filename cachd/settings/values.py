"""How a setting's value is written: sizes, shares, times."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    WithJsonSchema,
)


def show_bytes(count: int) -> str:
    """``200GiB`` where that is exact, else the bare number: both can be read again."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{unit}"
    return str(count)


class Share(str):
    """Bytes ("200GiB", 1073741824) or a share of the volume ("85%")."""

    __slots__ = ()

    def resolve(self, volume_bytes: int) -> int:
        """Bytes on a volume of ``volume_bytes``."""
        if self.endswith("%"):
            return int(volume_bytes * float(self[:-1]) / 100)
        return int(self)


def _parse_share(value: object) -> Share:
    text = str(value).strip()
    if text.endswith("%"):
        try:
            percent = float(text[:-1])
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= 100:
            raise ValueError("a share is a number from 0% to 100%, such as '85%'")
        return Share(text)
    if re.search("[KMGTPE]i$", text, re.IGNORECASE):
        text += "B"  # as Kubernetes writes quantities
    try:
        size = int(ByteSize._validate(text, None))  # type: ignore[arg-type]
        if size < 0:
            raise ValueError(size)
        return Share(size)
    except ValueError:
        raise ValueError("write bytes or a share, such as 200GiB or 80%") from None


_UNITS_OF_TIME = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _parse_duration(value: object) -> object:
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*([smhd])\s*", str(value))
    return float(match[1]) * _UNITS_OF_TIME[match[2]] if match else value


Duration = Annotated[
    float,
    BeforeValidator(_parse_duration),
    Field(gt=0),
    WithJsonSchema({"type": ["string", "number"], "exclusiveMinimum": 0}),
]
"""Seconds, or a number with a unit: 90s, 15m, 6h, 1d."""
ShareOfVolume = Annotated[Share, BeforeValidator(_parse_share)]
ShareOfInodes = Annotated[Share, BeforeValidator(_parse_share)]
Percent = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]


def _check_scheme(text: str) -> str:
    if text and not re.match("https?://", text.strip(), re.IGNORECASE):
        raise ValueError("write http:// or https:// before the host")
    return text


Endpoint = Annotated[str, AfterValidator(_check_scheme)]
"""URL of a server, and of a path on it."""

_SERVER = re.compile(r"https?://[^/?#@\s]+/?")


def is_server_url(text: str) -> bool:
    """Whether it names a server and nothing on it."""
    return _SERVER.fullmatch(text) is not None


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True
    )
