"""Registries by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from cachd.settings.values import Section


class RegistryRule(Section):
    """One entry of `sources.registries`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
    """What URIs, metrics and errors call it."""

    kind: str
    """`model-registry` (Kubeflow's), `mlflow`, or what a package adds."""

    url: str
    """Base URL, such as https://registry.example:8443."""

    match: tuple[str, ...] = ("*",)
    """Patterns (`*`, `?`) over models' names: it is asked for those alone, but by URIs that name
    the registry."""

    token_file: Path | None = None
    """File with a bearer token, read at each call."""

    username_file: Path | None = None
    """File with a name, for a registry that takes a name and a password."""

    password_file: Path | None = None
    """File with its password."""

    user: str = ""
    """Value of the header `kubeflow-userid`."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    client_cert_file: Path | None = None
    """PEM certificate that is shown to the registry."""

    client_key_file: Path | None = None
    """Its key; empty: the certificate's file has it."""

    share: bool = True
    """Ask with these passes for callers who bring none of their own. False: only for those to whom
    the daemon's identity is lent."""

    optional: bool = False
    """Pass over it also while it is down or refuses: then a later one's model of the same name is
    given. Models that it named before wait for it all the same."""

    allow_archived: bool = False
    """Give archived versions to who names them."""

    @field_validator("url")
    @classmethod
    def _url_has_a_host(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", url):
            raise ValueError("a registry's URL looks like https://registry.example:8443")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_pass(self) -> RegistryRule:
        if bool(self.username_file) != bool(self.password_file):
            raise ValueError("username_file and password_file belong together")
        if self.token_file and self.username_file:
            raise ValueError("give token_file, or username_file and password_file")
        if self.client_key_file and not self.client_cert_file:
            raise ValueError("client_key_file needs client_cert_file")
        return self
