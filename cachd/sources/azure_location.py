"""Parsing of Azure Storage's URIs and of what surrounds them. Pure.

``https://ACCOUNT.blob.core.windows.net/CONTAINER[/PATH]`` and its like in other clouds and zones of
names, ``abfs(s)://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH`` and ``wasb(s)://CONTAINER@ACCOUNT
.blob.…`` (the same blobs, as Hadoop names them), ``https://ACCOUNT.file.core.windows.net/SHARE``.
Paths are percent-encoded, as everywhere in URLs. A slash at the end means nothing. ``versionid`` or
``snapshot`` of one blob may be in the query, and a shared access signature, which is the caller's
credentials and no part of the canonical URI.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from cachd.errors import UriInvalid
from cachd.sources import endpoints
from cachd.sources.base import Location
from cachd.sources.http_rules import split_secret

if TYPE_CHECKING:
    from cachd.credentials import SourceOptions
    from cachd.settings.azure import AzureSettings

Service = Literal["blob", "file"]

_HOST = re.compile(
    r"^(?P<account>[a-z0-9]{3,24})(?P<secondary>-secondary)?(?P<zone>(?:\.[a-z0-9-]+)*)"
    r"\.(?P<service>blob|dfs|file)\.(?P<suffix>core\.windows\.net|storage\.azure\.net"
    r"|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net)$"
)
# "Naming and referencing containers": or one of the containers of the system.
_CONTAINER = re.compile(r"^(?:\$root|\$web|\$logs|[a-z0-9](?:-?[a-z0-9]){2,62})$")
_SAFE = "/-_.~!$&'()*+,;=:@"
_AUTHORITIES = {
    "core.chinacloudapi.cn": "https://login.chinacloudapi.cn",
    "core.usgovcloudapi.net": "https://login.microsoftonline.us",
}
_OPTIONS = ("versionid", "snapshot")
_EXAMPLE = "https://account.blob.core.windows.net/container/path/to/model"
_LOOKS = f"it looks like {_EXAMPLE}"
_KNOWN = "known are versionid, snapshot, and a whole shared access signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureAddress:
    """What a URI names: ``service`` at ``host``. ``prefix`` has no slash at either end and is not
    percent-encoded; "" is the container. ``pinned``: ``versionid=…`` or ``snapshot=…``."""

    service: Service
    host: str
    account: str
    suffix: str
    container: str
    prefix: str
    pinned: str = ""

    @property
    def uri(self) -> str:
        text = f"https://{self.host}/{self.container}"
        if self.prefix:
            text += f"/{quote(self.prefix, safe=_SAFE)}"
        return f"{text}?{self.pinned}" if self.pinned else text

    @property
    def kind(self) -> str:
        """What the service calls it."""
        return "container" if self.service == "blob" else "share"

    @property
    def authority(self) -> str:
        """Who gives tokens in this cloud."""
        return _AUTHORITIES.get(self.suffix, "https://login.microsoftonline.com")


def parse_azure(uri: str) -> AzureAddress:
    """Raises UriInvalid saying which part is wrong."""
    scheme, _, rest = uri.partition("://")
    try:
        parts = urlsplit(f"https://{rest}")
        port = parts.port
    except ValueError:
        raise UriInvalid("the URI has no valid host", field="uri", hint=_LOOKS) from None
    container, at, host = parts.netloc.rpartition("@")
    is_hadoop = scheme.lower() != "https"
    host = host.lower().rstrip(".").removesuffix(":443")
    match = _HOST.match(host)
    if match is None or port not in (None, 443):
        raise UriInvalid(
            f"{host[:100]!r} is no host of an Azure storage account",
            field="uri",
            hint=f"it looks like {_EXAMPLE}; another endpoint is named beside the URI",
        )
    if is_hadoop != bool(at):
        raise UriInvalid(
            f"an {scheme}:// URI names container@account"
            if is_hadoop
            else "the URI can't carry user information",
            field="uri",
            hint=f"it looks like {_EXAMPLE}, or abfss://container@account.dfs.core.windows.net/path",
        )
    path = _decode(parts.path)
    if not is_hadoop:
        container, _, path = path.lstrip("/").partition("/")
    elif match["service"] == "file":
        raise UriInvalid(
            f"an {scheme}:// URI names no file share",
            field="uri",
            hint="a share looks like https://account.file.core.windows.net/share/path/to/model",
        )
    service: Service = "file" if match["service"] == "file" else "blob"
    if not _CONTAINER.match(container):
        kind = "container" if service == "blob" else "share"
        raise UriInvalid(
            f"the URI has no {kind}" if not container else f"{container!r} is no name of a {kind}",
            field="uri",
            hint=_LOOKS if service == "blob" else _LOOKS.replace(".blob.", ".file."),
        )
    prefix = path.strip("/")
    if any(part in {".", ".."} for part in prefix.split("/")):
        raise UriInvalid("the URI's path has a part '.' or '..'", field="uri", hint=_LOOKS)
    return AzureAddress(
        service=service,
        host=host.replace(".dfs.", ".blob.") if match["service"] == "dfs" else host,
        account=match["account"],
        suffix=match["suffix"],
        container=container,
        prefix=prefix,
        pinned=_parse_query(parts.query, service, prefix),
    )


def _decode(path: str) -> str:
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise UriInvalid(
            "the URI's path is no UTF-8, percent-encoded",
            field="uri",
            hint="write a name's special characters as the UTF-8 of them: é is %C3%A9",
        ) from None


def _parse_query(query: str, service: Service, prefix: str) -> str:
    if not query:
        return ""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise UriInvalid("the URI's query is not name=value&…", field="uri", hint=_KNOWN) from None
    for name, _ in pairs:
        if name not in _OPTIONS:
            raise UriInvalid(
                f"the URI's query has an unknown option {name[:64]!r}",
                field="uri",
                hint=_KNOWN,
            )
    if len(pairs) > 1:
        raise UriInvalid(
            "the URI's query names more than one state of a blob",
            field="uri",
            hint="leave one of versionid and snapshot",
        )
    ((name, value),) = pairs
    if service == "file" or not prefix or not value:
        raise UriInvalid(
            f"{name} needs the path of one blob",
            field="uri",
            hint=f"such as https://account.blob.core.windows.net/container/model.tar.gz?{name}=…",
        )
    return f"{name}={quote(value, safe=':-_.')}"


def locate_azure(uri: str, options: SourceOptions, settings: AzureSettings) -> Location:
    """The endpoint is the request's, else the daemon's, else the account's own host."""
    plain, secret = split_secret(uri)
    address = parse_azure(plain)
    own = f"https://{address.host}"
    configured, field = (
        (settings.endpoint, "sources.azure.endpoint")
        if address.service == "blob"
        else (settings.files_endpoint, "sources.azure.files_endpoint")
    )
    default = _normalise(configured, field) if configured else own
    endpoint = _normalise(options.endpoint, "options.endpoint") if options.endpoint else default
    return Location(
        scheme="azure",
        uri=address.uri,
        origin=f"azure+{endpoint}",
        is_default_origin=endpoint == default,
        options=options.without_s3(endpoint),
        secret_query=secret,
    )


def _normalise(endpoint: str, field: str) -> str:
    return endpoints.normalise_endpoint(
        endpoint, field, what="the endpoint for Azure", example="http://127.0.0.1:10000"
    )


def base_url(endpoint: str, address: AzureAddress) -> str:
    """The account's URL at ``endpoint``: its own host, one that begins with its name, a path that
    ends in it, or (emulators) a path below the endpoint."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    is_own = host == address.host or host.partition(".")[0] == address.account
    if is_own or parts.path.endswith(f"/{address.account}"):
        return endpoint
    return f"{endpoint}/{address.account}"


def item_url(base: str, container: str, name: str = "", pinned: str = "") -> str:
    """The URL of a blob, a file or a directory; of the container without ``name``."""
    url = f"{base}/{quote(container, safe='$')}"
    if name:
        url += f"/{quote(name, safe='/-_.~')}"
    return f"{url}?{pinned}" if pinned else url
