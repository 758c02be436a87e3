"""What goes along for model hubs: a token, another endpoint, headers for its host. Pure, but for
the reading of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cli.forward_values import Forwarded, Overrides, parts_of
from cachd.cli.forward_web import gather_web
from cachd.sources.hubs import HUBS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def gather_hub(
    environ: Mapping[str, str],
    hub: str,
    overrides: Overrides,
    read: Callable[[str], str],
) -> Forwarded:
    """For the hub of that scheme."""
    token = gather_token(environ, hub, read)
    variables = HUBS[hub].endpoint_variables
    endpoint = next((environ[name] for name in variables if environ.get(name)), None)
    options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    url = url_of_hub(hub, overrides.endpoint or endpoint)
    web = gather_web(environ, url, overrides, read)
    return Forwarded(
        credentials={**web.credentials, **token.credentials},
        options={**web.options, **options},
        warnings=(*token.warnings, *web.warnings),
    )


def gather_token(environ: Mapping[str, str], hub: str, read: Callable[[str], str]) -> Forwarded:
    """The token alone. A file is read only if a variable names it: what `hf auth login` left in
    somebody's home isn't sent unasked."""
    for name in HUBS[hub].token_variables:
        if environ.get(name, "").strip():
            return Forwarded(credentials={"token": environ[name].strip()})
    path = environ.get("HF_TOKEN_PATH") if hub == "hf" else None
    if not path:
        return Forwarded()
    try:
        token = read(path).strip()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Forwarded(warnings=(f"HF_TOKEN_PATH: can't read {path}: {reason}",))
    return Forwarded(credentials={"token": token} if token else {})


def gather_hub_headers(
    environ: Mapping[str, str], hub: str, read: Callable[[str], str]
) -> Forwarded:
    """The token as headers for the hub's host: where a registry says what is called, nobody else
    may get it."""
    found = gather_token(environ, hub, read)
    token = found.credentials.get("token")
    if not token:
        return found
    names = HUBS[hub]
    endpoint = next((environ[n] for n in names.endpoint_variables if environ.get(n)), None)
    host = (parts_of(url_of_hub(hub, endpoint)).hostname or "").lower()
    headers = {"Authorization": f"Bearer {token}"}
    if names.cookie:
        headers["Cookie"] = f"{names.cookie}={token}"
    return Forwarded(credentials={"headers": {host: headers}} if host else {})


def url_of_hub(hub: str, endpoint: str | None) -> str:
    """The endpoint as a URL: that of the request, else the hub's own."""
    given = endpoint or HUBS[hub].endpoint
    return given if "://" in given else f"https://{given}"
