"""What goes along for ``gs://``: the key that Google's own clients would use. Pure, but for the
reading of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cli.forward_values import Forwarded, parts_of
from cachd.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachd.cli.forward_values import Overrides

HOST = "storage.googleapis.com"
_KEY = "GOOGLE_APPLICATION_CREDENTIALS"


def gather_google(
    environ: Mapping[str, str],
    overrides: Overrides,
    read: Callable[[str], str],
    *,
    strict: bool,
) -> Forwarded:
    """``strict`` False, where it isn't known yet whether the key is needed: no endpoint goes along,
    and a key that isn't there is only warned of.

    An emulator gets no key, as from Google's own clients.
    """
    credentials: dict[str, Any] = {}
    options: dict[str, Any] = {}
    warnings: list[str] = []
    emulator = environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator and strict and not overrides.endpoint:
        options["endpoint"] = emulator if "://" in emulator else f"http://{emulator}"
    path = environ.get(_KEY)
    if path and not overrides.anonymous and (overrides.endpoint or not emulator):
        try:
            credentials["google_key"] = read(path)
        except OSError as error:
            fault = f"{_KEY} names {path}, which can't be read: {error.strerror or error}"
            if strict:
                raise InvalidError(
                    fault, field=_KEY, hint="mount the key, or unset the variable"
                ) from None
            warnings.append(fault)
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def host_of(endpoint: str | None) -> str:
    """The host that a token for ``gs://`` is for; "" where it would go in the clear."""
    if not endpoint:
        return HOST
    parts = parts_of(endpoint if "://" in endpoint else f"https://{endpoint}")
    return parts.netloc.lower() if parts.scheme.lower() == "https" else ""
