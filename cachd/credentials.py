"""What a caller sends along with a URI: its passes, and how to reach the source."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal

NAMED: Final = {
    "username": "for a server that takes a name and a password: an OCI registry, a git server",
    "password": "",
    "client_pem": "PEM certificate and key that are shown to the source's server",
    "google_key": "a Google service account's key: the JSON file's text",
    "azure_account_key": "the storage account's key",
    "azure_sas": "a shared access signature, as a query",
    "azure_tenant_id": "of a service principal",
    "azure_client_id": "of a service principal",
    "azure_client_secret": "of a service principal",
    "registry_token": "a bearer token for the registry that names the model",
    "registry_username": "for a registry that takes a name and a password",
    "registry_password": "",
    "registry_user": "the registry's kubeflow-userid header",
    "registry_client_pem": "PEM certificate and key that are shown to the registry",
}
"""Texts of ``Credentials`` that have the same name in the API, and what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a caller sent to prove itself and to say where; memory only, never logged.

    ``headers`` are per host: ((host, ((name, value), …)), …). ``query`` is the part of a URL that
    proves something, such as a presigned URL's signature, without the ``?``. ``anonymous`` means:
    sign nothing, even if the daemon could. ``token`` is a bearer token for the source: a hub's.
    Those in ``NAMED`` are for the sources that need them; each takes what it knows.
    """

    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    anonymous: bool = False
    token: str = field(default="", repr=False)
    headers: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = field(default=(), repr=False)
    query: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    client_pem: str = field(default="", repr=False)
    google_key: str = field(default="", repr=False)
    azure_account_key: str = field(default="", repr=False)
    azure_sas: str = field(default="", repr=False)
    azure_tenant_id: str = field(default="", repr=False)
    azure_client_id: str = field(default="", repr=False)
    azure_client_secret: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    registry_username: str = field(default="", repr=False)
    registry_password: str = field(default="", repr=False)
    registry_user: str = field(default="", repr=False)
    registry_client_pem: str = field(default="", repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing here proves anything (``anonymous`` is a choice, so it is not empty)."""
        return not any(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What a caller said about reaching the source; None leaves it to the daemon's settings.

    ``endpoint``, ``registry`` (the base URL of the registry that names the model), ``root`` (a
    directory that paths begin in) and ``plain_http`` (an OCI registry without TLS) are part of the
    ref's origin, and so is ``user``, in whose name the source acts. ``authority``: the URL of who
    gives tokens. ``registry_verify`` and ``registry_ca_pem`` are for the registry what ``verify``
    and ``ca_pem`` are for the source. Timeouts in seconds.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] | None = None
    accelerate: bool | None = None
    verify: bool | None = None
    ca_pem: str | None = None
    connect_timeout: float | None = None
    read_timeout: float | None = None
    max_attempts: int | None = None
    registry: str | None = None
    root: str | None = None
    user: str | None = None
    authority: str | None = None
    plain_http: bool | None = None
    registry_verify: bool | None = None
    registry_ca_pem: str | None = None

    def without_s3(self, endpoint: str | None = None) -> SourceOptions:
        """What counts at ``endpoint`` where that is no S3."""
        return replace(self, endpoint=endpoint, region=None, addressing=None, accelerate=None)
