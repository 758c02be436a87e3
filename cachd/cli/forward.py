"""What of the client's environment goes with a request, as KServe's init containers get it.

Pure, but for the reading of CA bundles, which is passed in. The rules are those of KServe's storage
initializer (python/storage/kserve_storage/kserve_storage.py: ``get_S3_config``,
``_get_s3_client_kwargs``, ``_update_with_storage_spec``, ``_download_from_uri``), and botocore's
names for the same things.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from cachd.errors import InvalidError, UriInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LEGACY_ENDPOINT = "https://s3.amazonaws.com"
_HEADERS_SUFFIX = "-headers"
REGISTRIES = frozenset({"model-registry", "mlflow"})
_WEB = frozenset({"http", "https", "hf"})

_STORAGE_CONFIG = (
    ("endpoint_url", "AWS_ENDPOINT_URL"),
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("region", "AWS_DEFAULT_REGION"),
    ("ca_bundle", "AWS_CA_BUNDLE"),
    ("verify_ssl", "S3_VERIFY_SSL"),
    ("anonymous", "awsAnonymousCredential"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says; it beats the environment. None: it says nothing."""

    endpoint: str | None = None
    region: str | None = None
    addressing: str | None = None
    anonymous: bool = False
    verify: bool | None = None
    ca_bundle: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """``credentials`` and ``options`` of the request's body, and what a person should know."""

    credentials: dict[str, Any] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def scheme_of(uri: str) -> str:
    """The scheme in lower case, without ``cachd+``; empty for a bare path."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower().removeprefix("cachd+") if separator else ""


def parts_of(uri: str) -> SplitResult:
    """``uri``, without ``cachd+``, in its parts. Raises UriInvalid."""
    try:
        return urlsplit(uri.removeprefix("cachd+"))
    except ValueError:
        # The URI may hold a signature: no part of it goes into the message.
        raise UriInvalid("the URI has no valid host", field="URI") from None


def read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def gather(
    environ: Mapping[str, str],
    uri: str,
    overrides: Overrides = Overrides(),
    *,
    forward: bool = True,
    read: Callable[[str], str] = read_text,
) -> Forwarded:
    """What goes with a request for ``uri``; only what its scheme can use.

    ``forward`` False leaves the environment out. Raises InvalidError for settings that can't be
    meant: broken JSON, no number where one belongs, a CA bundle for S3 that isn't there.
    """
    scheme = scheme_of(uri)
    result = Forwarded()
    environ = environ if forward else {}
    if scheme == "s3" or scheme in REGISTRIES:
        result = _s3(environ, overrides, read, strict=scheme == "s3")
    if scheme in _WEB or scheme in REGISTRIES:
        result = _web(result, environ, uri, scheme, overrides, read)
    return _with_overrides(result, uri, overrides, read)


def _s3(
    environ: Mapping[str, str],
    overrides: Overrides,
    read: Callable[[str], str],
    *,
    strict: bool,
) -> Forwarded:
    env = _with_storage_config(environ)
    credentials: dict[str, Any] = {}
    options: dict[str, Any] = {}
    warnings: list[str] = []
    if _is_true(env.get("awsAnonymousCredential")):
        credentials["anonymous"] = True
    elif env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        credentials["access_key_id"] = env["AWS_ACCESS_KEY_ID"]
        credentials["secret_access_key"] = env["AWS_SECRET_ACCESS_KEY"]
        if env.get("AWS_SESSION_TOKEN"):
            credentials["session_token"] = env["AWS_SESSION_TOKEN"]
    elif env.get("AWS_ACCESS_KEY_ID") or env.get("AWS_SECRET_ACCESS_KEY"):
        warnings.append(
            "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set; neither is sent"
        )
    elif bool(env.get("AWS_WEB_IDENTITY_TOKEN_FILE")) != bool(env.get("AWS_ROLE_ARN")):
        warnings.append(
            "only one of AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN is set; neither is used"
        )
    endpoint = _endpoint(env)
    region = env.get("AWS_DEFAULT_REGION") or env.get("AWS_REGION")
    if endpoint:
        options["endpoint"] = endpoint
    if region:
        options["region"] = region
    if _is_true(env.get("S3_USER_VIRTUAL_BUCKET")):
        options["addressing"] = "virtual"
    if _is_true(env.get("S3_USE_ACCELERATE")):
        options["accelerate"] = True
    for name, variable in (
        ("connect_timeout", "S3_CONNECT_TIMEOUT"),
        ("read_timeout", "S3_READ_TIMEOUT"),
        ("max_attempts", "S3_MAX_ATTEMPTS"),
    ):
        if env.get(variable):
            options[name] = _number(env[variable], variable, whole=name == "max_attempts")
    if _is_false(env.get("S3_VERIFY_SSL")):
        options["verify"] = False
    elif overrides.verify is not False and not overrides.ca_bundle:
        path = env.get("AWS_CA_BUNDLE") or _config_map_bundle(env)
        pem = _bundle(path, read, warnings, strict=strict) if path else None
        if pem:
            options["ca_pem"] = pem
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def _web(
    result: Forwarded,
    environ: Mapping[str, str],
    uri: str,
    scheme: str,
    overrides: Overrides,
    read: Callable[[str], str],
) -> Forwarded:
    credentials, options = dict(result.credentials), dict(result.options)
    warnings = list(result.warnings)
    if scheme != "http" and not overrides.ca_bundle and "ca_pem" not in options:
        path = _config_map_bundle(environ)
        pem = _bundle(path, read, warnings, strict=False) if path else None
        if pem:
            options["ca_pem"] = pem
    if scheme not in ("http", "https") and environ.get("HF_TOKEN"):
        credentials["token"] = environ["HF_TOKEN"]
    host = (parts_of(uri).hostname or "").lower()
    headers = {}
    for name in environ:
        owner = name.removesuffix(_HEADERS_SUFFIX).lower()
        if name == owner or not name.endswith(_HEADERS_SUFFIX):
            continue
        if owner == host or (scheme in REGISTRIES and "." in owner):
            headers[owner] = _headers(environ[name], name)
    if headers:
        credentials["headers"] = headers
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
        options["ca_pem"] = _bundle(overrides.ca_bundle, read, [], strict=True)
        options.pop("verify", None)
    if overrides.anonymous:
        credentials = {"anonymous": True}
    if overrides.headers:
        host = (parts_of(uri).hostname or "").lower()
        if not host:
            raise InvalidError(
                "--header needs a URI with a host",
                field="--header",
                hint="headers go to the host of an http(s):// URI",
            )
        merged = dict(credentials.get("headers", {}))
        merged[host] = {**merged.get(host, {}), **dict(overrides.headers)}
        credentials["headers"] = merged
    # Requests to the global endpoint for a bucket elsewhere are redirected for ever unless the
    # bucket is part of the host name.
    legacy = options.get("endpoint", "").rstrip("/") == _LEGACY_ENDPOINT
    if legacy and options.get("region") not in (None, "us-east-1"):
        options.setdefault("addressing", "virtual")
    return replace(result, credentials=credentials, options=options)


def _with_storage_config(environ: Mapping[str, str]) -> dict[str, str]:
    env = dict(environ)
    config = _json_object(env.get("STORAGE_CONFIG"), "STORAGE_CONFIG")
    config.update(_json_object(env.get("STORAGE_OVERRIDE_CONFIG"), "STORAGE_OVERRIDE_CONFIG"))
    if config.get("type") != "s3":
        return env
    for name, variable in _STORAGE_CONFIG:
        if config.get(name) is not None:
            env[variable] = str(config[name])
    if config.get("endpoint_url"):
        env.pop("AWS_ENDPOINT_URL_S3", None)
    return env


def _endpoint(env: Mapping[str, str]) -> str | None:
    given = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if given:
        return given
    bare = env.get("S3_ENDPOINT")
    if not bare or "://" in bare:
        return bare or None
    return f"{'http' if env.get('S3_USE_HTTPS') == '0' else 'https'}://{bare}"


def _config_map_bundle(env: Mapping[str, str]) -> str | None:
    if not env.get("CA_BUNDLE_CONFIGMAP_NAME"):
        return None
    return posixpath.join(env.get("CA_BUNDLE_VOLUME_MOUNT_POINT", ""), "cabundle.crt")


def _bundle(
    path: str, read: Callable[[str], str], warnings: list[str], *, strict: bool
) -> str | None:
    try:
        pem = read(path)
    except OSError as error:
        fault = f"Failed to find ca bundle file({path}): {error.strerror or error}"
    else:
        if "-----BEGIN CERTIFICATE-----" in pem:
            return pem
        fault = f"the ca bundle file({path}) holds no PEM certificate"
    if strict:
        raise InvalidError(fault, hint="mount the bundle, or unset the variable that names it")
    warnings.append(f"{fault}; only the daemon's authorities are trusted")
    return None


def _headers(text: str, name: str) -> dict[str, str]:
    values = _json_object(text, name)
    if not all(isinstance(value, str) for value in values.values()):
        raise InvalidError(
            f"{name} must map header names to strings",
            field=name,
            hint='such as {"Authorization": "Bearer …"}; see docs/sources.md',
        )
    return values


def _json_object(text: str | None, name: str) -> dict[str, Any]:
    if not text or not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None  # The text may hold secrets: no part of it goes into the message.
    if not isinstance(value, dict):
        raise InvalidError(
            f"{name} holds no JSON object",
            field=name,
            hint="correct this variable, or unset it (--no-forward leaves the environment out); "
            "see docs/sources.md",
        )
    return value


def _number(text: str, name: str, *, whole: bool) -> float | int:
    try:
        value: float = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise InvalidError(
            f"{name} must be a positive number, not {text!r}",
            field=name,
            hint="correct this variable, or unset it; see docs/sources.md",
        )
    return value


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() == "true"


def _is_false(text: str | None) -> bool:
    return (text or "").strip().lower() in ("0", "false")
