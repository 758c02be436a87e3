"""What ``hdfs://``, ``webhdfs://`` and ``swebhdfs://`` URIs mean. Pure.

For KServe all that follows the scheme is a path, and the namenode comes from elsewhere
(python/storage/kserve_storage/kserve_storage.py, ``_download_hdfs``); for Hadoop the first part is
a host. Here it is a host where it says a port, which no name in HDFS can (``:`` isn't allowed in
one), and where no namenode is known otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from cachd.errors import UriInvalid
from cachd.sources.http_rules import authority, split_url

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[^/:@]+):(\d{1,5})")
_PORTS = {"http": 9870, "https": 9871}
"""Of a namenode's WebHDFS since Hadoop 3 (hdfs-default.xml, dfs.namenode.http(s)-address)."""

_MOST_NAMENODES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HdfsAddress:
    """``bases`` are the namenodes' URLs, the first of which is asked first; ``path`` is absolute.
    ``uri`` is the canonical one. ``is_named``: the URI itself says the host."""

    uri: str
    bases: tuple[str, ...]
    path: str
    is_named: bool


def parse_namenodes(text: str, field: str) -> tuple[str, ...]:
    """URLs with ``;`` (or ``,``) between them; a host with a port alone is http. Raises UriInvalid,
    naming ``field``."""
    found: dict[str, None] = {}
    for each in re.split(r"[;,]", text):
        if not (bare := each.strip().rstrip("/")):
            continue
        url = bare if "://" in bare else f"http://{bare}"
        try:
            parts = split_url(url)
        except UriInvalid as error:
            raise _bad_namenode(field, error.message) from None
        if parts.query or parts.fragment:
            raise _bad_namenode(field, "the URL has a query")
        found[f"{parts.scheme.lower()}://{authority(parts)}{parts.path}"] = None
    if not found or len(found) > _MOST_NAMENODES:
        raise _bad_namenode(field, f"it names {len(found)} namenodes")
    return tuple(found)


def locate(uri: str, given: str | None, configured: str | None, root: str | None) -> HdfsAddress:
    """``given`` is the caller's namenode, which beats the daemon's. Raises UriInvalid."""
    scheme, _, rest = uri.partition("://")
    if "?" in rest or "#" in rest:
        raise UriInvalid(
            f"a {scheme}:// URI has no query and no fragment",
            field="uri",
            hint="the path is meant as it is written; credentials and options go beside the URI",
        )
    first, _, after = rest.partition("/")
    if "@" in first:
        raise UriInvalid(
            f"a {scheme}:// URI can't carry user information",
            field="uri",
            hint="say options.user (HADOOP_USER_NAME, USER_PROXY)",
        )
    known = given or configured
    namenodes = parse_namenodes(known, _field(given)) if known else ()
    if first and (_HOST_AND_PORT.fullmatch(first) or not namenodes):
        base = _base_of(scheme, first, namenodes)
        path = _absolute(after, root)
        place = urlsplit(base)
        port = place.port or {"http": 80, "https": 443}[place.scheme]
        host = f"[{place.hostname}]" if ":" in (place.hostname or "") else place.hostname
        canonical = f"{scheme}://{host}:{port}/{_trimmed(after)}"
        return HdfsAddress(uri=canonical, bases=(base,), path=path, is_named=True)
    if not namenodes:
        raise UriInvalid(
            f"{uri} names no namenode",
            field="uri",
            hint="write webhdfs://host:port/path, or say the namenode: HDFS_NAMENODE, "
            "options.endpoint, or sources.hdfs.namenode",
        )
    path = _absolute(rest, root)
    return HdfsAddress(
        uri=f"{scheme}://{_trimmed(rest)}", bases=namenodes, path=path, is_named=False
    )


def origin_of(bases: tuple[str, ...], options: Mapping[str, str | None]) -> str:
    """The origin's name: the namenodes, then what else decides what a path means and who sees
    it."""
    said = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items() if value)
    return f"webhdfs+{';'.join(bases)}" + (f"#{said}" if said else "")


def url_of(base: str, path: str, op: str, **query: str) -> str:
    """The URL of an operation; nothing in it proves anything."""
    more = "".join(f"&{name}={quote(value, safe='')}" for name, value in query.items())
    return f"{base}/webhdfs/v1{quote(path, safe='/')}?op={op}{more}"


def _base_of(scheme: str, first: str, namenodes: tuple[str, ...]) -> str:
    """The namenode that a URI names: as it is known, where it is among the known ones."""
    tls = "https" if scheme == "swebhdfs" else "http"
    has_port = _HOST_AND_PORT.fullmatch(first)
    try:
        host = authority(split_url(f"{tls}://{first if has_port else f'{first}:{_PORTS[tls]}'}"))
    except UriInvalid:
        raise UriInvalid(
            f"the URI's first part, {first[:80]!r}, is no host",
            field="uri",
            hint="write webhdfs://host:port/path; a path alone needs a namenode: HDFS_NAMENODE, "
            "options.endpoint, or sources.hdfs.namenode",
        ) from None
    same = (base for base in namenodes if authority(split_url(base)) == host)
    return next(same, f"{tls}://{host}")


def _trimmed(path: str) -> str:
    return "/".join(part for part in path.split("/") if part)


def _absolute(path: str, root: str | None) -> str:
    """The path below ``root``, which the namenode takes from ``/``. Raises UriInvalid."""
    whole = _trimmed(f"{root or ''}/{path}")
    parts = whole.split("/") if whole else []
    if any(part in {".", ".."} for part in parts):
        raise UriInvalid("the URI's path has '.' or '..' in it", field="uri")
    return "/" + whole


def _field(given: str | None) -> str:
    return "options.endpoint" if given else "sources.hdfs.namenode"


def _bad_namenode(field: str, why: str) -> UriInvalid:
    return UriInvalid(
        f"the namenode can't be called: {why}",
        field=field,
        hint="such as http://namenode:9870, or several with ';' between them",
    )
