"""TLS trust and time limits of one request, from its options over the settings."""

from __future__ import annotations

import asyncio
import functools
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.errors import ConfigInvalid, InvalidError
from cachd.model import Connect
from cachd.sources.client_pem import load_client_pem

if TYPE_CHECKING:
    from cachd.credentials import SourceOptions

CONNECT_TIMEOUT = 15.0
"""Seconds; KServe's default for S3 (``S3_CONNECT_TIMEOUT``)."""

READ_TIMEOUT = 30.0
"""Seconds; KServe's default for S3 (``S3_READ_TIMEOUT``)."""

TIMEOUT_MOST = 3600.0


async def connect_of(
    options: SourceOptions,
    *,
    verify: bool = True,
    ca_bundle: Path | str | None = None,
    client_pem: str = "",
) -> Connect:
    """How to reach the origin. ``ca_bundle`` is the path of a PEM file, read here; ``client_pem``
    is shown to the server.

    Raises ConfigInvalid if the bundle can't be read.
    """
    pem = options.ca_pem
    if pem is None and ca_bundle:
        pem = await asyncio.to_thread(_read_bundle, Path(ca_bundle))
    return Connect(
        verify=verify if options.verify is None else options.verify,
        ca_pem=pem,
        client_pem=client_pem,
        connect_timeout=_at_most(options.connect_timeout),
        read_timeout=_at_most(options.read_timeout),
    )


def _at_most(seconds: float | None) -> float | None:
    """No library takes an arbitrary number."""
    return None if seconds is None else min(TIMEOUT_MOST, seconds)


def _read_bundle(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"can't read the CA bundle {path}: {getattr(error, 'strerror', None) or error}",
            hint="correct the path, or mount the bundle where the daemon runs",
        ) from error


async def tls_context(connect: Connect) -> ssl.SSLContext:
    """A client context that trusts the system's authorities and ``connect.ca_pem``.

    Nothing is written to disk. Raises InvalidError for PEM text that holds no certificate.
    """
    return await asyncio.to_thread(_tls_context, connect.verify, connect.ca_pem, connect.client_pem)


@functools.lru_cache(maxsize=32)
def _tls_context(verify: bool, ca_pem: str | None, client_pem: str) -> ssl.SSLContext:
    """Kept, for reading the system's authorities takes longer than a whole call; a process that
    idles ends, and with it what it read."""
    context = ssl.create_default_context()
    if client_pem:
        load_client_pem(context, client_pem)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_pem:
        try:
            context.load_verify_locations(cadata=ca_pem)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidError(
                "the CA bundle holds no certificate that can be read",
                field="options.ca_pem",
                hint="a CA bundle is PEM text: -----BEGIN CERTIFICATE----- …",
            ) from error
    return context
