"""AWS: a pod's role, by IRSA (a web identity token that STS takes), EKS Pod Identity or ECS (an
agent on the node). The order and the names are botocore's (``create_credential_resolver``,
``AssumeRoleWithWebIdentityProvider``, ``ContainerProvider``).
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cachd.cli.identity import Identity, Obtained
from cachd.cli.token_calls import call, parse_object, read_token
from cachd.errors import AccessError, InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

_STS = "AWS's STS"
_AGENT = "the credentials agent of this node"
_ECS = "http://169.254.170.2"
_AGENTS = frozenset({"169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
_NAMESPACE = "{https://sts.amazonaws.com/doc/2011-06-15/}"


def choose(environ: Mapping[str, str], ca_file: str | None) -> Identity | None:
    role, token_file = environ.get("AWS_ROLE_ARN"), environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if role and token_file:
        return WebIdentity(
            role=role,
            token_file=token_file,
            session=environ.get("AWS_ROLE_SESSION_NAME") or _session(environ),
            url=sts_url(environ),
            ca_file=ca_file or environ.get("AWS_CA_BUNDLE") or None,
        )
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    full = environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if relative or full:
        return Agent(
            url=f"{_ECS}{relative}" if relative else check_agent(str(full)),
            token_file=environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", ""),
            token=environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", ""),
        )
    return None


def sts_url(environ: Mapping[str, str]) -> str:
    """Where STS is. ``AWS_ENDPOINT_URL`` means every service to the SDKs; KServe sets it to where
    the objects are, so AWS's own S3 there says nothing about STS."""
    named = environ.get("AWS_ENDPOINT_URL_STS")
    if not named:
        named = environ.get("AWS_ENDPOINT_URL", "")
        host = (urlsplit(named).hostname or "").lower()
        if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            named = ""
    if named:
        return named.rstrip("/") + "/"
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if not region or environ.get("AWS_STS_REGIONAL_ENDPOINTS", "").lower() == "legacy":
        return "https://sts.amazonaws.com/"
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://sts.{region}.{suffix}/"


def check_agent(url: str) -> str:
    """``url`` if a token may be sent there: over TLS, or to this node. Raises InvalidError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_near = host == "localhost" or host in _AGENTS or _is_loopback(host)
    if parts.scheme == "https" or (parts.scheme == "http" and is_near):
        return url
    raise InvalidError(
        f"AWS_CONTAINER_CREDENTIALS_FULL_URI names {host!r}, which is no agent of this node",
        field="AWS_CONTAINER_CREDENTIALS_FULL_URI",
        hint=f"an address over http must be loopback or one of {', '.join(sorted(_AGENTS))}",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _session(environ: Mapping[str, str]) -> str:
    """Shown in CloudTrail: 2 to 64 characters of a few kinds."""
    name = environ.get("POD_NAME") or f"pid-{os.getpid()}"
    return re.sub(r"[^\w+=,.@-]", "-", f"cachd-{name}", flags=re.ASCII)[:64]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebIdentity:
    """IRSA: the service-account token of this pod, for a role."""

    role: str
    token_file: str
    session: str
    url: str
    ca_file: str | None = None

    def obtain(self) -> Obtained:
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": self.role,
            "RoleSessionName": self.session,
            "WebIdentityToken": read_token(self.token_file, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        }
        body = call(
            self.url,
            _STS,
            form=form,
            ca_file=self.ca_file,
            transient=("IDPCommunicationError",),
        )
        return parse_sts(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """EKS Pod Identity or ECS: an agent on the node hands the credentials out."""

    url: str
    token_file: str = ""
    token: str = field(default="", repr=False)

    def obtain(self) -> Obtained:
        variable = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
        token = read_token(self.token_file, variable) if self.token_file else self.token
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = token
        found = parse_object(call(self.url, _AGENT, headers=headers, is_local=True), _AGENT)
        return _obtained(
            _AGENT,
            found.get("AccessKeyId"),
            found.get("SecretAccessKey"),
            found.get("Token"),
            found.get("Expiration"),
        )


def parse_sts(body: bytes) -> Obtained:
    """What STS answers to AssumeRoleWithWebIdentity. Raises AccessError."""
    import xml.etree.ElementTree as ET  # noqa: PLC0415  (slow to load, and rarely needed)

    try:
        # From an endpoint whose certificate was verified; expat bounds what entities expand to.
        tree = ET.fromstring(body)  # noqa: S314
    except ET.ParseError:
        raise AccessError(f"{_STS} answered with no XML") from None
    found = next(tree.iter(f"{_NAMESPACE}Credentials"), None)
    if found is None:
        raise AccessError(f"{_STS} answered without credentials")
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    return _obtained(_STS, *(found.findtext(f"{_NAMESPACE}{name}") for name in names))


def _obtained(service: str, key: object, secret: object, token: object, until: object) -> Obtained:
    if not (isinstance(key, str) and key and isinstance(secret, str) and secret):
        raise AccessError(f"{service} answered without credentials")
    credentials = {"access_key_id": key, "secret_access_key": secret}
    if isinstance(token, str) and token:
        credentials["session_token"] = token
    expires = None
    if isinstance(until, str) and until:
        try:
            expires = datetime.fromisoformat(until).timestamp()
        except ValueError:
            raise AccessError(f"{service} says no time at which its credentials end") from None
    return Obtained(credentials=credentials, expires=expires)
