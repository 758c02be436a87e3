"""What goes along for registries: where they are, and the caller's passes. Pure, but for the
reading of files.

The names are those of Kubeflow's KServe downloader (cmd/csi/main.go in kubeflow/model-registry),
and of MLflow's client (mlflow/environment_variables.py); those that begin with ``MODEL_REGISTRY_``
and that downloader doesn't know are cachd's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from cachd.cli.forward_values import Forwarded, bundle, is_true, json_object
from cachd.errors import InvalidError
from cachd.schemes import scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PORT = 8080


def gather_registry(environ: Mapping[str, str], uri: str, read: Callable[[str], str]) -> Forwarded:
    """Raises InvalidError for a file that is named and can't be read."""
    is_kubeflow = scheme_of(uri) == "model-registry"
    found = _kubeflow(environ, uri, read) if is_kubeflow else _mlflow(environ, read)
    base = _place(str(found.options.get("registry", "")))
    named = "" if uri.startswith("models:/") else _host_in(uri)
    query = parse_qs(uri.partition("?")[2])
    given = _place(environ.get("MODEL_REGISTRY_BASE_URL", ""))
    if is_kubeflow and given and "namespace" in query and base != given:
        named, base = base, given
    if "registry" in query:
        named = query["registry"][0]
    if base and named and named.lower() != base.lower() and found.credentials:
        # A token for one registry isn't shown to whichever host a URI names.
        kept = ("registry", "endpoint")
        options = {name: value for name, value in found.options.items() if name in kept}
        warning = f"the URI names another registry than {base}: the passes for that aren't sent"
        found = Forwarded(options=options, warnings=(*found.warnings, warning))
    root = _root(environ)
    if root:
        found.options["root"] = root
    return found


def _place(url: str) -> str:
    """``host[:port]``; a name and a password before it are no part of a message."""
    return url.rpartition("://")[2].partition("/")[0].rpartition("@")[2]


def _kubeflow(environ: Mapping[str, str], uri: str, read: Callable[[str], str]) -> Forwarded:
    credentials: dict[str, Any] = {}
    options: dict[str, Any] = {}
    scheme = environ.get("MODEL_REGISTRY_SCHEME") or "http"
    base = environ.get("MODEL_REGISTRY_BASE_URL", "")
    if base:
        options["registry"] = base if "://" in base else f"{scheme}://{base}"
    names = ("MODEL_REGISTRY_BASE_URL", "MODEL_REGISTRY_SERVICE_NAME", "MODEL_REGISTRY_SCHEME",
             "MODEL_REGISTRY_CLUSTER_DOMAIN")  # fmt: skip
    namespace = parse_qs(uri.partition("?")[2]).get("namespace", [""])[0]
    if namespace and any(environ.get(name) for name in names):
        service = environ.get("MODEL_REGISTRY_SERVICE_NAME") or "model-registry-service"
        domain = environ.get("MODEL_REGISTRY_CLUSTER_DOMAIN") or "svc.cluster.local"
        port = options.get("registry", "").rpartition(":")[2]
        own = options.get("registry", f"{scheme}://").partition("://")[0]
        port = port if port.isdigit() else str(_PORT)
        options["registry"] = f"{own}://{service}.{namespace}.{domain}:{port}"
    token = environ.get("MODEL_REGISTRY_TOKEN") or _file(environ, "MODEL_REGISTRY_TOKEN_FILE", read)
    if token:
        credentials["registry_token"] = token.strip()
    if environ.get("MODEL_REGISTRY_USER"):
        credentials["registry_user"] = environ["MODEL_REGISTRY_USER"]
    pem = _file(environ, "MODEL_REGISTRY_CLIENT_CERT_FILE", read)
    if pem:
        key = _file(environ, "MODEL_REGISTRY_CLIENT_KEY_FILE", read)
        credentials["registry_client_pem"] = f"{pem}\n{key}"
    _trust(options, environ.get("MODEL_REGISTRY_CA_FILE"), read)
    return Forwarded(credentials=credentials, options=options)


def _mlflow(environ: Mapping[str, str], read: Callable[[str], str]) -> Forwarded:
    credentials: dict[str, Any] = {}
    options: dict[str, Any] = {}
    url = environ.get("MLFLOW_REGISTRY_URI") or environ.get("MLFLOW_TRACKING_URI") or ""
    if url.startswith(("http://", "https://")):
        options["registry"] = url
    if environ.get("MLFLOW_S3_ENDPOINT_URL"):
        options["endpoint"] = environ["MLFLOW_S3_ENDPOINT_URL"]
    if environ.get("MLFLOW_TRACKING_USERNAME"):
        credentials["registry_username"] = environ["MLFLOW_TRACKING_USERNAME"]
        credentials["registry_password"] = environ.get("MLFLOW_TRACKING_PASSWORD", "")
    elif environ.get("MLFLOW_TRACKING_TOKEN"):
        credentials["registry_token"] = environ["MLFLOW_TRACKING_TOKEN"]
    pem = _file(environ, "MLFLOW_TRACKING_CLIENT_CERT_PATH", read)
    if pem:
        credentials["registry_client_pem"] = pem
    if is_true(environ.get("MLFLOW_TRACKING_INSECURE_TLS")):
        options["registry_verify"] = False
    else:
        _trust(options, environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"), read)
    return Forwarded(credentials=credentials, options=options)


def _host_in(uri: str) -> str:
    """The registry that the URI names by host, as the daemon will see it."""
    path = uri.partition("://")[2].partition("?")[0].strip("/")
    first, slash, rest = path.partition("/")
    is_host = ":" in first or "." in first or (slash and "/" in rest)
    return first if slash and is_host else ""


def _trust(options: dict[str, Any], path: str | None, read: Callable[[str], str]) -> None:
    if path:
        options["registry_ca_pem"] = bundle(path, read, [], strict=True)


def _file(environ: Mapping[str, str], name: str, read: Callable[[str], str]) -> str:
    path = environ.get(name)
    if not path:
        return ""
    try:
        return read(path)
    except OSError as error:
        raise InvalidError(
            f"can't read {path}, which {name} names: {error.strerror or error}",
            field=name,
            hint="mount the file, or unset the variable",
        ) from None


def _root(environ: Mapping[str, str]) -> str:
    """The bucket that KServe's storage spec has, for artifacts that are registered by a
    storageKey."""
    config = json_object(environ.get("STORAGE_CONFIG"), "STORAGE_CONFIG")
    config.update(json_object(environ.get("STORAGE_OVERRIDE_CONFIG"), "STORAGE_OVERRIDE_CONFIG"))
    bucket = config.get("bucket")
    return f"s3://{bucket}" if bucket and config.get("type") == "s3" else ""
