"""A client's certificate and key for TLS, from memory: the standard library reads files only."""

from __future__ import annotations

import os
import ssl

from cachd.errors import InvalidError


def load_client_pem(context: ssl.SSLContext, pem: str) -> None:
    """Have ``context`` show the certificate in ``pem``, which holds its key as well, unencrypted.
    Nothing is written to disk. Raises InvalidError."""
    fd = os.memfd_create("client-pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem.encode())
        # A password is asked for on the terminal otherwise.
        context.load_cert_chain(f"/proc/self/fd/{fd}", password="")
    except (ssl.SSLError, ValueError, OSError):
        # The library's text may quote what it read.
        raise InvalidError(
            "client_pem holds no certificate with its key that can be used",
            field="credentials.client_pem",
            hint="it is PEM text: the certificate, then its unencrypted key",
        ) from None
    finally:
        os.close(fd)
