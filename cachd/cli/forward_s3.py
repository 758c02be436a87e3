"""What goes along for ``s3://``. Pure, but for the reading of CA bundles.

The rules are those of KServe's storage initializer
(python/storage/kserve_storage/kserve_storage.py: ``get_S3_config``, ``_get_s3_client_kwargs``,
``_update_with_storage_spec``), and botocore's names for the same things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cli.forward_values import (
    Forwarded,
    Overrides,
    bundle,
    config_map_bundle,
    is_false,
    is_true,
    json_object,
    number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STORAGE_CONFIG = (
    ("endpoint_url", "AWS_ENDPOINT_URL"),
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("region", "AWS_DEFAULT_REGION"),
    ("ca_bundle", "AWS_CA_BUNDLE"),
    ("verify_ssl", "S3_VERIFY_SSL"),
    ("anonymous", "awsAnonymousCredential"),
)


def gather_s3(
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
    if is_true(env.get("awsAnonymousCredential")):
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
    if is_true(env.get("S3_USER_VIRTUAL_BUCKET")):
        options["addressing"] = "virtual"
    if is_true(env.get("S3_USE_ACCELERATE")):
        options["accelerate"] = True
    for name, variable in (
        ("connect_timeout", "S3_CONNECT_TIMEOUT"),
        ("read_timeout", "S3_READ_TIMEOUT"),
        ("max_attempts", "S3_MAX_ATTEMPTS"),
    ):
        if env.get(variable):
            options[name] = number(env[variable], variable, whole=name == "max_attempts")
    if is_false(env.get("S3_VERIFY_SSL")):
        options["verify"] = False
    elif overrides.verify is not False and not overrides.ca_bundle:
        path = env.get("AWS_CA_BUNDLE") or config_map_bundle(env)
        pem = bundle(path, read, warnings, strict=strict) if path else None
        if pem:
            options["ca_pem"] = pem
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def _with_storage_config(environ: Mapping[str, str]) -> dict[str, str]:
    env = dict(environ)
    config = json_object(env.get("STORAGE_CONFIG"), "STORAGE_CONFIG")
    config.update(json_object(env.get("STORAGE_OVERRIDE_CONFIG"), "STORAGE_OVERRIDE_CONFIG"))
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
