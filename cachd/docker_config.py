"""Logins at container registries, as docker and podman write them down. Pure, and light: the client
reads its pod's, the resolver the daemon's.

``config.json`` of docker, ``auth.json`` of containers-auth.json(5), and the older ``.dockercfg``,
which is the object in ``auths`` alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HUB: Final = "docker.io"
"""How Docker Hub is named in a reference; its registry has another name."""

HUB_API: Final = "registry-1.docker.io"
HUB_NAMES: Final = frozenset({HUB, HUB_API, "index.docker.io"})
TOKEN_USER: Final = "<token>"  # noqa: S105  (no password)
"""The user name that stands for an identity token in place of a password: docker's convention for
its credential helpers."""

VARIABLE: Final = "KSERVE_OCI_DOCKER_CONFIG"
"""The path of a docker config, as KServe sets it (pkg/credentials/oci and the injector)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """``token``: a bearer token for the registry itself. ``where``: what it was found in."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logins:
    """What a file has: ``by_key`` as it is written there; ``helpers`` by registry, ``helper`` for
    all others: programs that would know more, and aren't run."""

    by_key: Mapping[str, Login]
    helpers: Mapping[str, str]
    helper: str = ""

    def find(self, registry: str, repository: str = "") -> Login | None:
        """The login for ``registry`` (host, or host and port): the most specific entry for the
        repository, else the registry's own."""
        for wanted in _candidates(registry, repository):
            for key, login in self.by_key.items():
                if _place_of(key) == wanted:
                    return login
        return None

    def helper_for(self, registry: str) -> str:
        """The helper that is named for it; "" if none is."""
        for key, name in self.helpers.items():
            if _place_of(key) in _names(registry):
                return name
        return self.helper

    def hosts(self) -> Iterator[tuple[str, Login]]:
        """Registries that have a login for everything in them."""
        for key, login in self.by_key.items():
            place = _place_of(key)
            if "/" not in place:
                yield place, login


def parse_logins(text: str, where: str) -> Logins:
    """Raises ValueError, without any part of ``text``, if it is no such file."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(data, dict):
        raise ValueError("is no JSON object")
    known = {"auths", "credHelpers", "credsStore"}
    auths = data.get("auths") if known & data.keys() else data
    if auths is not None and not isinstance(auths, dict):
        raise ValueError('has "auths" that are no JSON object')
    found = {}
    for key, entry in (auths or {}).items():
        login = _login(entry, where) if isinstance(entry, dict) else None
        if login is not None:
            found[key] = login
    helpers = data.get("credHelpers")
    store = data.get("credsStore")
    return Logins(
        by_key=found,
        helpers={k: str(v) for k, v in helpers.items()} if isinstance(helpers, dict) else {},
        helper=store if isinstance(store, str) else "",
    )


def places(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The files that may be there, as (path, what named it: a variable, or "" for the default)."""
    found = [
        (environ[name], name) for name in (VARIABLE, "REGISTRY_AUTH_FILE") if environ.get(name)
    ]
    if environ.get("DOCKER_CONFIG"):
        found.append((posixpath.join(environ["DOCKER_CONFIG"], "config.json"), "DOCKER_CONFIG"))
    if environ.get("HOME"):
        found.append((posixpath.join(environ["HOME"], ".docker/config.json"), ""))
    return found


def gather_logins(
    environ: Mapping[str, str], read: Callable[[str], str]
) -> tuple[list[Logins], list[str]]:
    """What those files have, in their order, and what is wrong with them."""
    found, faults = [], []
    for path, variable in places(environ):
        named = f"{path} ({variable})" if variable else path
        try:
            found.append(parse_logins(read(path), named))
        except OSError as error:
            if variable:
                faults.append(f"can't read {named}: {error.strerror or error}")
        except ValueError as error:
            faults.append(f"{named} {error}")
    return found, faults


def registry_of(host: str) -> str:
    """``host`` by the name that it has in references."""
    return HUB if host.lower() in HUB_NAMES else host.lower()


def host_of(registry: str) -> str:
    """Where the API of a registry is, by the name that it has in references."""
    return HUB_API if registry_of(registry) == HUB else registry


def _login(entry: dict[str, Any], where: str) -> Login | None:
    texts = {name: value for name, value in entry.items() if isinstance(value, str) and value}
    username, password = texts.get("username", ""), texts.get("password", "")
    if "auth" in texts:
        try:
            plain = base64.b64decode(texts["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            plain = ""
        name, colon, secret = plain.partition(":")
        if colon:
            username, password = name, secret.rstrip("\0")
    if "identitytoken" in texts:
        username, password = TOKEN_USER, texts["identitytoken"]
    token = texts.get("registrytoken", "")
    if not token and not (username and password):
        return None
    return Login(username=username, password=password, token=token, where=where)


def _place_of(key: str) -> str:
    """``host[:port]`` or ``host/path`` of a key, which may be a URL with an API's version."""
    bare = key.strip().partition("://")[2] or key.strip()
    host, _, path = bare.rstrip("/").partition("/")
    is_url = "://" in key or path in ("v1", "v2")
    return host.lower() if is_url or not path else f"{host.lower()}/{path}"


def _candidates(registry: str, repository: str) -> Iterator[str]:
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        for name in _names(registry):
            yield "/".join([name, *parts[:count]])


def _names(registry: str) -> list[str]:
    host = registry.lower()
    return sorted(HUB_NAMES) if host in HUB_NAMES else [host]
