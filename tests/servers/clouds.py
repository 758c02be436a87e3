"""What gives a pod short-lived credentials in a cloud: AWS's STS, the agent of EKS Pod Identity,
Google's metadata server, Microsoft's token service. None of them can be had here; this one speaks
as much of each protocol as their public documents say, and notes what it is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from tests.servers.loopback import Handler, Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

# docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
_STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <Credentials><SessionToken>{token}</SessionToken><SecretAccessKey>{secret}</SecretAccessKey>
      <Expiration>{until}</Expiration><AccessKeyId>{key}</AccessKeyId></Credentials>
  </AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""
_REFUSED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error>
  <Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"""


@dataclass(frozen=True)
class Call:
    path: str
    form: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass
class Clouds:
    """``refusals`` are statuses and codes for the first calls, None for a call that is answered.
    ``lifetimes`` in seconds, of the credentials one after the other; the last one's is an hour."""

    tls: ssl.SSLContext | None = None
    calls: list[Call] = field(default_factory=list)
    refusals: list[tuple[int, str] | None] = field(default_factory=list)
    lifetimes: list[float] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        clouds = self

        class CloudsHandler(Handler):
            def do_GET(self) -> None:
                clouds._answer(self, {})

            def do_POST(self) -> None:
                text = self.read_body().decode()
                clouds._answer(self, {name: values[0] for name, values in parse_qs(text).items()})

        self._server = Server(CloudsHandler, self.tls)
        self.url = self._server.url
        self.host = self._server.host

    def stop(self) -> None:
        self._server.stop()

    def _answer(self, handler: Handler, form: Mapping[str, str]) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.calls.append(Call(handler.path, form, headers))
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            status, code = refusal
            if handler.path == "/":
                handler.send(status, _REFUSED.format(code=code).encode())
            elif status // 100 == 3:
                handler.send(status, Location=code)
            else:
                handler.send(status, json.dumps({"error": code}).encode())
            return
        seconds = self.lifetimes.pop(0) if self.lifetimes else 3600.0
        number = len(self.issued) + 1
        self.issued.append(f"AKIA{number}")
        until = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        if handler.path == "/":
            text = _STS.format(
                key=f"AKIA{number}",
                secret=f"secret-{number}",
                token=f"session-{number}",
                until=until.replace("+00:00", "Z"),
            )
            handler.send(200, text.encode(), Content_Type="text/xml")
        elif handler.path.startswith("/agent"):
            found = {
                "AccessKeyId": f"AKIA{number}",
                "SecretAccessKey": f"secret-{number}",
                "Token": f"session-{number}",
                "Expiration": until,
            }
            handler.send(200, json.dumps(found).encode(), Content_Type="application/json")
        else:
            token = {"access_token": f"token-{number}", "expires_in": seconds}
            handler.send(200, json.dumps(token).encode(), Content_Type="application/json")
