"""``oci://``: models in container registries, as artifacts, ModelPacks, or images."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cachd.docker_config import Login, gather_logins, parse_logins
from cachd.errors import ConfigInvalid, OriginError
from cachd.metadata import tidy
from cachd.model import Plan
from cachd.sources.archives import unpack_of
from cachd.sources.base import Location
from cachd.sources.oci_reference import SCHEMES, parse_reference
from cachd.sources.trust import connect_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.docker_config import Logins
    from cachd.model import Auth, Connect
    from cachd.settings import SourcesSettings
    from cachd.settings.oci import OciSettings
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.http_client import HttpClient
    from cachd.sources.oci_client import Manifest, RegistryClient

_INDEXES_DEEP = 3
"""Indexes in indexes that are followed."""

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "loongarch64": "loong64",
}
_NOTES = {
    "name": "org.opencontainers.image.title",
    "version": "org.opencontainers.image.version",
    "author": "org.opencontainers.image.authors",
    "description": "org.opencontainers.image.description",
    "created": "org.opencontainers.image.created",
}


class OciSource:
    """The ``Source`` of registries that speak OCI's distribution API.

    A tag is a moving ref, a digest an immutable one; the revision is the manifest's digest.
    ``oci+native://`` and ``oci+fetch://`` say how KServe is to have an image mounted, and mean the
    same image: KServe itself hands them to its initializer as ``oci://``.
    """

    schemes = SCHEMES

    def locate(
        self,
        uri: str,
        options: SourceOptions,
        settings: SourcesSettings,
        environ: Mapping[str, str],
    ) -> Location:
        """Raises UriInvalid saying which part is wrong."""
        reference = parse_reference(uri)
        is_plain = reference.registry in {host.lower() for host in settings.oci.plain_http}
        wants_plain = is_plain if options.plain_http is None else options.plain_http
        return Location(
            scheme="oci",
            uri=reference.uri,
            origin=f"oci+{reference.endpoint(plain_http=wants_plain)}",
            is_default_origin=wants_plain == is_plain,
            options=options.without_s3(),
        )

    async def resolve(self, request: SourceRequest, context: SourceContext) -> Plan:
        """One to three calls for a manifest: without a pass, for a token, with it."""
        from cachd.sources.oci_layout import content_of, layers_of, layout_of  # noqa: PLC0415

        reference = parse_reference(request.location.uri)
        connect = await _connect(request, context)
        async with _http(request, context, connect) as http:
            client = await _client(http, request, context)
            found = await _find(client, reference.target, context.settings.oci)
        what = reference.uri.removeprefix("oci://")
        layers = layers_of(found.data, what)
        layout = layout_of(found.data, layers, what)
        content = content_of(layout, layers, client.blobs, what, request.allow, request.ignore)
        return Plan(
            revision=found.digest.partition(":")[2],
            files=content.files,
            rules=content.rules,
            unpack="rules" if content.rules else unpack_of(content.files),
            auth=client.auth,
            connect=connect,
            is_immutable=bool(reference.digest),
            is_credentialed=client.is_credentialed,
            # A registry's rights are its repositories', manifests and blobs alike.
            is_read_proven=True,
            metadata=_notes(found),
        )

    async def probe(self, request: SourceRequest, plan_file: str, context: SourceContext) -> None:
        """The manifest, once more: rights are the repository's."""
        await self.authorize(request, context)

    async def authorize(self, request: SourceRequest, context: SourceContext) -> Auth:
        """A token lives for minutes, so that a long fetch needs several."""
        connect = await _connect(request, context)
        async with _http(request, context, connect) as http:
            client = await _client(http, request, context)
            await client.prove()
            return client.auth


async def _find(client: RegistryClient, target: str, settings: OciSettings) -> Manifest:
    """The manifest itself, whatever indexes are before it."""
    from cachd.sources.oci_layout import choose, is_index  # noqa: PLC0415

    wanted = settings.platform or default_platform()
    for _ in range(_INDEXES_DEEP):
        found = await client.manifest(target)
        if not is_index(found.media_type, found.data):
            return found
        target = choose(found.data, wanted, target)
    raise OriginError("the index leads to an index, and so on")


def default_platform() -> str:
    """This node's, as registries write it."""
    machine = platform.machine().lower()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


async def _connect(request: SourceRequest, context: SourceContext) -> Connect:
    return await connect_of(request.location.options, ca_bundle=context.settings.oci.ca_bundle)


def _http(request: SourceRequest, context: SourceContext, connect: Connect) -> HttpClient:
    from cachd.sources.http_client import client_for  # noqa: PLC0415  (heavy)

    return client_for(request, context, connect, request.used_credentials)


async def _client(
    http: HttpClient, request: SourceRequest, context: SourceContext
) -> RegistryClient:
    from cachd.sources.oci_client import RegistryClient, login_of_headers  # noqa: PLC0415

    reference = parse_reference(request.location.uri)
    base = request.location.mirror or request.location.origin.removeprefix("oci+")
    login, missing = None, ""
    if request.identity == "caller":
        sent = request.credentials
        # Never ``token``: it may be a hub's, and a model's registry may have led here.
        if sent.password:
            login = Login(username=sent.username, password=sent.password, where="the request's")
        else:
            login = login_of_headers(sent, base)
    elif request.identity == "daemon":
        # A mirror is another registry, with a login of its own.
        mirror = urlsplit(request.location.mirror).netloc
        login, missing = await asyncio.to_thread(
            _own_login, mirror or reference.registry, reference.repository, context
        )
    return RegistryClient(http, base.rstrip("/"), reference, login, missing)


def _own_login(registry: str, repository: str, context: SourceContext) -> tuple[Login | None, str]:
    """The daemon's login for the registry, or why it has none. Raises ConfigInvalid."""
    given = context.settings.oci.docker_config
    found: list[Logins] = []
    if given is not None:
        try:
            found = [parse_logins(given.read_text("utf-8"), f"{given} (sources.oci.docker_config)")]
        except (OSError, UnicodeDecodeError, ValueError) as error:
            fault = getattr(error, "strerror", None) or error
            raise ConfigInvalid(
                f"can't read {given} (sources.oci.docker_config): {fault}"
            ) from None
    else:
        found, _ = gather_logins(context.environ, lambda path: Path(path).read_text("utf-8"))
    for logins in found:
        login = logins.find(registry, repository)
        if login is not None:
            return login, ""
    helpers = [name for name in (logins.helper_for(registry) for logins in found) if name]
    if helpers:
        return None, (
            f"the daemon's docker config names the credential helper {helpers[0]} for this "
            "registry, which cachd doesn't run: write the login into the config"
        )
    return None, ""


def _notes(found: Manifest) -> dict[str, str]:
    notes = found.data.get("annotations")
    notes = notes if isinstance(notes, dict) else {}
    return tidy({"commit": found.digest, **{name: notes.get(key) for name, key in _NOTES.items()}})
