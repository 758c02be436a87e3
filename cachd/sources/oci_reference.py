"""``oci://REGISTRY/REPOSITORY[:TAG][@DIGEST]``, in its parts. Pure, and light.

Grammar: OCI distribution-spec, "Pulling manifests"; how Docker Hub's names are completed:
distribution/reference, normalize.go, of which cachd takes only what leaves no doubt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cachd.docker_config import HUB, host_of, registry_of
from cachd.errors import UriInvalid

SCHEMES = ("oci", "oci+native", "oci+fetch")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[A-Fa-f0-9]{32,}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_NAME = 255
_LOOKS = "a reference looks like oci://registry.example/team/model:v1, or …@sha256:… for a digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """``registry``: host, or host and port. ``tag`` is "" where only a digest is given; with both,
    the digest decides."""

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def target(self) -> str:
        """What is asked for below ``manifests/``."""
        return self.digest or self.tag or "latest"

    @property
    def uri(self) -> str:
        """Canonical. A tag that isn't given isn't added."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"oci://{self.registry}/{self.repository}{tag}{digest}"

    def endpoint(self, *, plain_http: bool) -> str:
        """The base URL of the registry's API."""
        scheme, port = ("http", ":80") if plain_http else ("https", ":443")
        return f"{scheme}://{host_of(self.registry).removesuffix(port)}"


def parse_reference(uri: str) -> Reference:
    """Raises UriInvalid saying which part is wrong."""
    rest = uri.partition("://")[2]
    if "?" in rest or "#" in rest:
        raise _invalid("an oci:// URI has neither a query nor a fragment")
    host, slash, name = rest.partition("/")
    if "@" in host:
        raise _invalid(
            "the URI can't carry user information",
            hint="log in to the registry: docker's config.json, or username and password",
        )
    if not slash or not name:
        raise _invalid("the URI has no repository, or no registry")
    _check_host(host, name)
    name, at, digest = name.partition("@")
    name, colon, tag = name.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid("the tag is not valid")
    if not _REPOSITORY.fullmatch(name) or len(name) > _MOST_NAME:
        raise _invalid("the repository is not valid: lower-case letters, digits, and . _ - between")
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid("the digest is not valid")
    if at and not _SHA256.fullmatch(digest):
        raise _invalid("the digest is no sha256 in lower case, the only one that cachd can verify")
    registry = registry_of(host)
    if registry == HUB and "/" not in name:
        raise _invalid(
            "a repository of Docker Hub has a namespace",
            hint=f"write oci://docker.io/library/{name} for Docker's own images, "
            f"or oci://docker.io/NAMESPACE/{name}",
        )
    return Reference(registry=registry, repository=name, tag=tag, digest=digest)


def _check_host(host: str, name: str) -> None:
    lower = host.lower()
    port = lower.rpartition(":")[2] if re.search(r":[0-9]+$", lower) else "1"
    if not _HOST.fullmatch(lower) or not 0 < int(port) < 65536:
        raise _invalid("the registry is no valid host, or host and port")
    if not re.search(r"[.:\[]", lower) and lower != "localhost":
        shown = name.partition("@")[0].partition(":")[0]
        raise _invalid(
            f"the URI names no registry: {lower} is no host name with a dot or a port",
            hint=f"write oci://docker.io/{lower}/{shown} for Docker Hub, "
            "or the registry's full name or port",
        )


def _invalid(what: str, hint: str = _LOOKS) -> UriInvalid:
    return UriInvalid(what, field="uri", hint=hint)
