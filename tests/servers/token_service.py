"""Who gives tokens for docker-registry: signed as it wants them (distribution's "Token
authentication implementation": a JWT with RS256, its certificate in ``x5c``)."""

from __future__ import annotations

import base64
import datetime
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.servers.loopback import Handler, Server

SERVICE, ISSUER = "registry of the tests", "token service of the tests"
_LEEWAY = 60
"""Seconds that docker-registry lets a token live on."""


@dataclass
class TokenService:
    """``rights``: who may pull (and push), by "name:password"; "" is anybody."""

    folder: Path
    rights: dict[str, list[str]]
    scopes: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = self.folder / "token-service.pem"
        self.bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def auth(self) -> dict[str, Any]:
        """What docker-registry's configuration says of it."""
        return {
            "token": {
                "realm": f"{self.url}/token",
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.bundle),
            }
        }

    def sign(self, scope: str, actions: list[str]) -> str:
        kind, _, rest = scope.partition(":")
        name = rest.rpartition(":")[0]
        now = int(time.time())
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": "somebody",
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now - _LEEWAY,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [{"type": kind, "name": name, "actions": actions}],
        }
        text = ".".join(_packed(json.dumps(part).encode()) for part in (head, claims))
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_packed(signature)}"


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextmanager
def token_service(folder: Path, rights: dict[str, list[str]]) -> Iterator[TokenService]:
    service = TokenService(folder, rights)

    class TokenHandler(Handler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            basic = self.headers.get("Authorization", "").removeprefix("Basic ")
            who = base64.b64decode(basic).decode()
            scope = query.get("scope", [""])[0]
            service.scopes.append(scope)
            is_known = who in service.rights and query.get("service") == [SERVICE]
            token = service.sign(scope, service.rights[who]) if is_known else ""
            body = json.dumps({"access_token": token, "expires_in": 300} if token else {}).encode()
            self.send(200 if is_known else 401, body)

    with Server(TokenHandler) as server:
        service.url = server.url
        yield service
