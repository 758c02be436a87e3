"""A certificate authority for loopback."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

from tests.servers.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority and of a server that it vouches for."""

    ca: Path
    chain: Path
    key: Path

    @property
    def ca_pem(self) -> str:
        return self.ca.read_text()

    def server_context(self) -> ssl.SSLContext:
        """A new one each time, for a test may change it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def make_certificates(folder: Path) -> Certificates:
    """For 127.0.0.1, localhost and the names below it."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    server = authority.issue_cert(LOOPBACK, "localhost", "*.localhost")
    made = Certificates(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(made.ca)
    server.private_key_pem.write_to_path(made.key)
    made.chain.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    return made
