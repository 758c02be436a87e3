"""What of the client's environment goes with a request, as KServe's init containers get it.

Pure, but for the reading of files, which is passed in. Each source has a module ``forward_*`` of
its own, which takes what that source can use and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachd.cli.forward_azure import gather_azure
from cachd.cli.forward_azure import host_of as azure_host
from cachd.cli.forward_git import gather_git
from cachd.cli.forward_google import gather_google
from cachd.cli.forward_google import host_of as google_host
from cachd.cli.forward_hdfs import gather_hdfs
from cachd.cli.forward_hdfs import hosts_of as hdfs_hosts
from cachd.cli.forward_hub import gather_hub, gather_hub_headers, url_of_hub
from cachd.cli.forward_oci import gather_oci, gather_oci_everywhere
from cachd.cli.forward_oci import host_of as oci_host
from cachd.cli.forward_registry import gather_registry
from cachd.cli.forward_s3 import gather_s3
from cachd.cli.forward_values import (
    Forwarded,
    Overrides,
    bundle,
    parts_of,
    read_text,
)
from cachd.cli.forward_web import gather_web
from cachd.errors import InvalidError
from cachd.schemes import REGISTRIES, source_of
from cachd.sources.hubs import HUBS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_GIT = frozenset({"git", "git+https", "git+http"})
_HDFS = frozenset({"hdfs", "webhdfs", "swebhdfs"})
_OCI = ("oci", "oci+native", "oci+fetch")
_WEB = frozenset({"http", "https", *_OCI, *_GIT})
_LEGACY_ENDPOINT = "https://s3.amazonaws.com"


def gather(
    environ: Mapping[str, str],
    uri: str,
    overrides: Overrides = Overrides(),
    *,
    forward: bool = True,
    read: Callable[[str], str] = read_text,
) -> Forwarded:
    """What goes with a request for ``uri``; only what its source can use.

    ``forward`` False leaves the environment out. Raises InvalidError for settings that can't be
    meant: broken JSON, no number where one belongs, a CA bundle for S3 that isn't there.
    """
    environ = environ if forward else {}
    source = source_of(uri)
    is_open = source in REGISTRIES
    found = []
    if source == "s3" or is_open:
        found.append(gather_s3(environ, overrides, read, strict=source == "s3"))
    if source == "azure" or is_open:
        found.append(gather_azure(environ, uri, overrides, strict=source == "azure"))
    if source == "azure":
        host = azure_host(uri, overrides.endpoint or found[-1].options.get("endpoint"))
        found.append(gather_web(environ, uri, overrides, read, host=host.partition(":")[0]))
    if source == "gs" or is_open:
        found.append(gather_google(environ, overrides, read, strict=source == "gs"))
    if source == "gs":
        host = google_host(overrides.endpoint or found[-1].options.get("endpoint"))
        found.append(gather_web(environ, uri, overrides, read, host=host.partition(":")[0]))
    if source in _WEB or is_open:
        place = oci_host(uri) if source in _OCI else None
        found.append(gather_web(environ, uri, overrides, read, host=place))
    if source in HUBS:
        found.append(gather_hub(environ, source, overrides, read))
    elif is_open:
        found += [gather_hub_headers(environ, hub, read) for hub in HUBS]
    if source in _GIT:
        found.append(gather_git(environ))
    if source in _HDFS:
        # Not for registries: the namenode would be taken for the endpoint of what else they name.
        found.append(gather_hdfs(environ, uri, overrides, read))
    if source in _OCI:
        found.append(gather_oci(environ, uri, read))
    elif is_open:
        found.append(gather_oci_everywhere(environ, read))
    if is_open:
        # Where a store is, is said of S3's alone: another's endpoint would be taken for it.
        found = [found[0], *(replace(one, options=_without_places(one)) for one in found[1:])]
        found.append(gather_registry(environ, uri, read))
    return _with_overrides(merge(found), uri, overrides, read)


def _without_places(found: Forwarded) -> dict[str, Any]:
    return {n: v for n, v in found.options.items() if n not in ("endpoint", "region", "addressing")}


def merge(found: Sequence[Forwarded]) -> Forwarded:
    """All of them; where two say the same thing, the first. Headers are said host by host."""
    credentials: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for each in reversed(found):
        headers = {**credentials.get("headers", {}), **each.credentials.get("headers", {})}
        credentials.update(each.credentials)
        if headers:
            credentials["headers"] = headers
        options.update(each.options)
    warnings = dict.fromkeys(line for each in found for line in each.warnings)
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def _with_overrides(
    result: Forwarded, uri: str, overrides: Overrides, read: Callable[[str], str]
) -> Forwarded:
    credentials, options = dict(result.credentials), dict(result.options)
    for name in ("endpoint", "region", "addressing", "verify"):
        value = getattr(overrides, name)
        if value is not None:
            options[name] = value
    if overrides.verify is False:
        options.pop("ca_pem", None)
    elif overrides.ca_bundle:
        options["ca_pem"] = bundle(overrides.ca_bundle, read, [], strict=True)
        options.pop("verify", None)
    if overrides.anonymous:
        credentials = {"anonymous": True}
    if overrides.headers:
        merged = dict(credentials.get("headers", {}))
        for host in _hosts_of(uri, options.get("endpoint")):
            merged[host] = {**merged.get(host, {}), **dict(overrides.headers)}
        credentials["headers"] = merged
    # Requests to the global endpoint for a bucket elsewhere are redirected for ever unless the
    # bucket is part of the host name.
    legacy = options.get("endpoint", "").rstrip("/") == _LEGACY_ENDPOINT
    if legacy and options.get("region") not in (None, "us-east-1"):
        options.setdefault("addressing", "virtual")
    return replace(result, credentials=credentials, options=options)


def _hosts_of(uri: str, endpoint: str | None) -> list[str]:
    """Where the headers of the command line go. Raises InvalidError where nobody knows yet, or
    where they can't be meant."""
    source = source_of(uri)
    if source in _HDFS:
        hosts = hdfs_hosts(uri, endpoint or "")
    elif source == "azure":
        hosts = [azure_host(uri, endpoint).partition(":")[0]]
    elif source == "gs":
        hosts = [google_host(endpoint).partition(":")[0]]
    elif source in _OCI:
        hosts = [oci_host(uri)]
    elif source == "s3" or source in REGISTRIES:
        hosts = []
    else:
        url = url_of_hub(source, endpoint) if source in HUBS else uri
        hosts = [(parts_of(url).hostname or "").lower()]
    if not any(hosts):
        raise InvalidError(
            "--header needs a URI with a host",
            field="--header",
            hint="headers go to the host of an http(s)://, git, oci:// or webhdfs:// URI, or to "
            "that of a hub, gs:// or Azure (https); for what a registry names set HOST-headers",
        )
    return hosts
