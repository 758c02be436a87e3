"""How the environment's texts are read: truth, numbers, JSON, CA bundles. Pure, but for what
``read`` does."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from cachd.errors import InvalidError, UriInvalid
from cachd.schemes import OWN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says; it beats the environment. None: it says nothing."""

    endpoint: str | None = None
    region: str | None = None
    addressing: str | None = None
    anonymous: bool = False
    verify: bool | None = None
    ca_bundle: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """``credentials`` and ``options`` of the request's body, and what a person should know."""

    credentials: dict[str, Any] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def parts_of(uri: str) -> SplitResult:
    """``uri``, without ``cachd+``, in its parts. Raises UriInvalid."""
    try:
        return urlsplit(uri.removeprefix(OWN_PREFIX))
    except ValueError:
        # The URI may hold a signature: no part of it goes into the message.
        raise UriInvalid("the URI has no valid host", field="URI") from None


def read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def config_map_bundle(env: Mapping[str, str]) -> str | None:
    if not env.get("CA_BUNDLE_CONFIGMAP_NAME"):
        return None
    return posixpath.join(env.get("CA_BUNDLE_VOLUME_MOUNT_POINT", ""), "cabundle.crt")


def bundle(
    path: str, read: Callable[[str], str], warnings: list[str], *, strict: bool
) -> str | None:
    try:
        pem = read(path)
    except OSError as error:
        fault = f"Failed to find ca bundle file({path}): {error.strerror or error}"
    else:
        if "-----BEGIN CERTIFICATE-----" in pem:
            return pem
        fault = f"the ca bundle file({path}) holds no PEM certificate"
    if strict:
        raise InvalidError(fault, hint="mount the bundle, or unset the variable that names it")
    warnings.append(f"{fault}; only the daemon's authorities are trusted")
    return None


def json_object(text: str | None, name: str) -> dict[str, Any]:
    if not text or not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None  # The text may hold secrets: no part of it goes into the message.
    if not isinstance(value, dict):
        raise InvalidError(
            f"{name} holds no JSON object",
            field=name,
            hint="correct this variable, or unset it (--no-forward leaves the environment out); "
            "see docs/sources.md",
        )
    return value


def number(text: str, name: str, *, whole: bool) -> float | int:
    try:
        value: float = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise InvalidError(
            f"{name} must be a positive number, not {text!r}",
            field=name,
            hint="correct this variable, or unset it; see docs/sources.md",
        )
    return value


def is_true(text: str | None) -> bool:
    return (text or "").strip().lower() == "true"


def is_false(text: str | None) -> bool:
    return (text or "").strip().lower() in ("0", "false")
