"""What goes along for ``hdfs://`` and its kin. Pure, but for the reading of files.

KServe mounts a secret, whose keys are files (python/storage/kserve_storage/kserve_storage.py,
``_load_hdfs_configuration``), or gives the same keys as JSON in ``STORAGE_CONFIG``. Hadoop's own
name for the user counts as well.
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cachd.cli.forward_values import Forwarded, Overrides, bundle, is_true, json_object, parts_of
from cachd.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MOUNTED_AT = "/var/secrets/kserve-hdfscreds"
_KEYS = (
    "HDFS_NAMENODE",
    "USER_PROXY",
    "HDFS_ROOTPATH",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CA",
    "TLS_SKIP_VERIFY",
    "HEADERS",
    "KERBEROS_KEYTAB",
    "KERBEROS_PRINCIPAL",
    "DELEGATION_TOKEN",
)
"""KServe's, but for N_THREADS, the number of connections of its library: the daemon decides that
for all fetches together (``fetch.*``). DELEGATION_TOKEN is cachd's."""


def gather_hdfs(
    environ: Mapping[str, str],
    uri: str,
    overrides: Overrides,
    read: Callable[[str], str],
) -> Forwarded:
    """The secret's, unless the URI names another host than it does. Raises InvalidError."""
    config = _config(environ, read)
    if config.get("KERBEROS_PRINCIPAL") or config.get("KERBEROS_KEYTAB"):
        raise InvalidError(
            "the HDFS secret holds a Kerberos keytab, and cachd doesn't speak SPNEGO",
            field="KERBEROS_PRINCIPAL",
            hint="put a delegation token into the secret as DELEGATION_TOKEN (`hdfs fetchdt` and "
            "GETDELEGATIONTOKEN give one), or go by HttpFS or Knox with HEADERS; without "
            "KERBEROS_PRINCIPAL and KERBEROS_KEYTAB",
        )
    warnings: list[str] = []
    namenode = overrides.endpoint or config.get("HDFS_NAMENODE", "")
    options = _options(config, environ, overrides)
    if _is_elsewhere(uri, namenode):
        # What the secret holds is for its own namenode.
        if config.get("HDFS_NAMENODE"):
            warnings.append(
                "the URI names another host than HDFS_NAMENODE: nothing of the HDFS secret is sent"
            )
        return Forwarded(warnings=tuple(warnings))
    if namenode:
        options["endpoint"] = namenode
    credentials = _credentials(config, namenode, uri)
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def _config(environ: Mapping[str, str], read: Callable[[str], str]) -> dict[str, str]:
    """The keys: of ``STORAGE_CONFIG`` and its override if those are for HDFS, else of the mounted
    secret."""
    config = json_object(environ.get("STORAGE_CONFIG"), "STORAGE_CONFIG")
    config.update(json_object(environ.get("STORAGE_OVERRIDE_CONFIG"), "STORAGE_OVERRIDE_CONFIG"))
    if config.get("type") in ("hdfs", "webhdfs"):
        return {k: str(config[k]).strip() for k in _KEYS if config.get(k) is not None}
    if not environ:
        return {}
    found = {}
    folder = environ.get("HDFS_SECRET_DIR") or _MOUNTED_AT
    for key in _KEYS:
        try:
            found[key] = read(posixpath.join(folder, key)).strip()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InvalidError(
                f"can't read {posixpath.join(folder, key)}: {error.strerror or error}",
                field=key,
                hint="let the init container's user read the HDFS secret",
            ) from error
    return found


def _options(
    config: Mapping[str, str],
    environ: Mapping[str, str],
    overrides: Overrides,
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    user = config.get("USER_PROXY") or environ.get("HADOOP_USER_NAME")
    if user:
        options["user"] = user
    if config.get("HDFS_ROOTPATH"):
        options["root"] = config["HDFS_ROOTPATH"]
    if is_true(config.get("TLS_SKIP_VERIFY")):
        options["verify"] = False
    elif config.get("TLS_CA") and overrides.verify is not False and not overrides.ca_bundle:
        pem = bundle("TLS_CA", lambda _: config["TLS_CA"], [], strict=True)
        options["ca_pem"] = pem
    return options


def _credentials(config: Mapping[str, str], namenode: str, uri: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if config.get("DELEGATION_TOKEN"):
        found["token"] = config["DELEGATION_TOKEN"]
    if config.get("TLS_CERT") or config.get("TLS_KEY"):
        if not (config.get("TLS_CERT") and config.get("TLS_KEY")):
            raise InvalidError(
                "only one of TLS_CERT and TLS_KEY is in the HDFS secret",
                field="TLS_CERT",
                hint="both are needed: the certificate, and its unencrypted key",
            )
        found["client_pem"] = f"{config['TLS_CERT']}\n{config['TLS_KEY']}\n"
    if config.get("HEADERS"):
        headers = json_object(config["HEADERS"], "HEADERS")
        values = {name: _text(value) for name, value in headers.items()}
        hosts = _hosts(namenode) or [(parts_of(uri).netloc or "").lower()]
        if values:
            found["headers"] = {host: dict(values) for host in hosts if host}
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _hosts(namenode: str) -> list[str]:
    """``host[:port]`` of each."""
    found = []
    for each in re.split(r"[;,]", namenode):
        url = each.strip()
        if not url:
            continue
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            raise InvalidError(
                "HDFS_NAMENODE names no host that can be called",
                field="HDFS_NAMENODE",
                hint="such as http://namenode:9870, or several with ';' between them",
            ) from None
        host = f"[{name}]" if ":" in name else name
        found.append(f"{host}:{port}" if port else host)
    return list(dict.fromkeys(found))


def hosts_of(uri: str, namenode: str) -> list[str]:
    """``host[:port]`` of who is asked: the URI's, else the namenodes'; empty where neither says."""
    own = _own_host(uri)
    return [own] if own else _hosts(namenode)


def _own_host(uri: str) -> str:
    """The host that the URI says of its own (with a port: see docs/sources.md)."""
    first = uri.partition("://")[2].partition("/")[0]
    has_port = re.fullmatch(r"(?:\[[0-9a-fA-F:.%]+\]|[^/:@]+):\d{1,5}", first)
    return first.lower() if has_port else ""


def _is_elsewhere(uri: str, namenode: str) -> bool:
    """Whether the URI says a host of its own that the secret doesn't."""
    own = _own_host(uri)
    return bool(namenode and own) and own not in _hosts(namenode)
