"""The body of an ask, from the command line and the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cli import ambient, patterns
from cachd.cli.ambient import Passes
from cachd.cli.forward import gather
from cachd.cli.forward_values import Overrides
from cachd.errors import InvalidError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def request_body(
    arguments: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body for ``POST /v1/models`` and ``/v1/plan``, and warnings. Raises InvalidError."""
    overrides = Overrides(
        endpoint=arguments.endpoint,
        region=arguments.region,
        addressing=arguments.addressing,
        anonymous=arguments.anonymous,
        verify=False if arguments.no_verify_ssl else None,
        ca_bundle=arguments.ca_bundle,
        headers=tuple(arguments.header),
    )
    forwarded = gather(environ, arguments.uri, overrides, forward=not arguments.no_forward)
    fields = {
        "allow": list(patterns.gather(arguments.allow, patterns.ALLOW_VARIABLE, environ)),
        "ignore": list(patterns.gather(arguments.ignore, patterns.IGNORE_VARIABLE, environ)),
        "credentials": forwarded.credentials,
        "options": forwarded.options,
    }
    given = {name: value for name, value in fields.items() if value}
    return {"uri": arguments.uri, **given}, forwarded.warnings


def passes_of(
    arguments: argparse.Namespace, environ: Mapping[str, str], body: dict[str, Any]
) -> Passes:
    """``body`` with the pod's identity in its cloud, where nothing else proves anything."""
    if arguments.no_forward:
        return Passes(body, None)
    given = body.get("credentials", {})
    identity = ambient.choose(
        environ,
        arguments.uri,
        given,
        endpoint=body.get("options", {}).get("endpoint"),
        ca_file=arguments.ca_bundle,
    )
    return Passes(body, identity)


def pins_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the body that pin the content. Raises InvalidError."""
    files = dict(arguments.digest)
    if len(files) != len(arguments.digest):
        raise InvalidError(
            "--digest names one file twice", field="--digest", hint="give one digest a file"
        )
    fields = {"digests": files, "model_digest": arguments.model_digest}
    return {name: value for name, value in fields.items() if value}


def refuse_decryption(environ: Mapping[str, str]) -> None:
    """Raises InvalidError where KServe's storage initializer would decrypt what it downloaded
    (python/storage-initializer/scripts/initializer-entrypoint): a model server must not be given
    ciphertext in place of a model."""
    if environ.get("CONFIDENTIAL_ENABLED", "").strip().lower() == "true":
        raise InvalidError(
            "CONFIDENTIAL_ENABLED asks for models to be decrypted, which cachd doesn't do",
            field="CONFIDENTIAL_ENABLED",
            hint="unset it, or let KServe's own storage initializer fetch this model",
        )
