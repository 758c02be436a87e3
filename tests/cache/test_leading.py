"""Where a registry's word leads, and whose pass is shown there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cachd.cache.access import ANONYMOUS, DAEMON
from cachd.cache.naming import NamedPlan, Naming, lead, lead_back
from cachd.cache.resolve import Asked, unseen
from cachd.cache.types import Ask
from cachd.credentials import SourceOptions
from cachd.errors import Forbidden
from cachd.model import Named, make_ref
from cachd.settings import SourcesSettings
from cachd.sources.base import Target
from cachd.sources.resolver import Resolver

CONFIGURED = {
    "registries": [{"name": "team", "kind": "model-registry", "url": "http://registry:8080"}]
}


def asked(uri: str, lending: str, **options: Any) -> tuple[Asked, Any]:
    resolver = Resolver(SourcesSettings.model_validate(CONFIGURED), environ={})
    location = resolver.locate(uri, SourceOptions(**options))
    ref = make_ref(
        uri=location.uri, origin=location.origin, is_default_origin=location.is_default_origin
    )
    one = Asked(ask=Ask(uri=uri), ref=ref, location=location, principal=ANONYMOUS, lending=lending)
    return one, SimpleNamespace(resolver=resolver)


def named(uri: str, **more: Any) -> Naming:
    target = Target(uri=uri, **more)
    return Naming(target=target, registry="team", principal=DAEMON, is_credentialed=False)


@pytest.mark.parametrize(
    ("uri", "options", "is_lent"),
    [
        ("model-registry://llama", {}, True),
        ("model-registry://team/llama/1", {}, True),
        ("model-registry://llama", {"registry": "http://evil:8080"}, False),
        ("model-registry://evil:8080/llama/1", {}, False),
    ],
)
def test_a_registry_that_the_caller_chose_lends_nothing(
    uri: str, options: dict[str, Any], is_lent: bool
) -> None:
    one, parts = asked(uri, "lent", **options)
    led = lead(one, named("s3://private/model"), parts)
    assert (led.principal is DAEMON) == is_lent
    # Nor anywhere but at the stores that the daemon would call by itself.
    at_evil = SourceOptions(endpoint="http://evil:9000")
    led = lead(one, named("s3://bucket/m", options=at_evil), parts)
    assert led.principal is not DAEMON


@pytest.mark.parametrize(
    ("lending", "is_believed"), [("lent", False), ("daemon", True), ("", True)]
)
def test_whom_a_caller_trusts_is_shown_no_token_that_is_lent(
    lending: str, is_believed: bool
) -> None:
    one, parts = asked("model-registry://llama", lending, ca_pem="a caller's own", verify=False)
    led = lead(one, named("hf://owner/model"), parts)
    assert (led.principal is DAEMON) == bool(lending)
    assert (led.location.options.ca_pem == "a caller's own") == is_believed
    assert led.location.options.verify is None
    # Keys that only sign may be used there.
    led = lead(one, named("s3://bucket/m"), parts)
    assert (led.location.options.ca_pem, led.location.options.verify) == ("a caller's own", False)


def test_a_look_by_schedule_shows_the_daemons_pass_to_no_strangers_store() -> None:
    one, parts = asked("model-registry://llama", "")
    mine = unseen(one.ask, one.ref, one.location, DAEMON)
    assert lead(mine, named("s3://bucket/m"), parts).principal is DAEMON
    evil = Target(uri="s3://bucket/m", options=SourceOptions(endpoint="http://evil:9000"))
    led = lead(mine, named(evil.uri, options=evil.options), parts)
    assert led.principal is not DAEMON


def test_a_pass_for_a_registry_proves_nothing_at_a_store() -> None:
    """The name led to a bucket before and to the registry's own store now, whose pass is shared."""
    one, parts = asked("mlflow://m", "", registry="http://ml:5000")
    at = SourceOptions(registry="http://ml:5000")
    now = named("mlflow-artifacts://ml:5000/1/a", options=at, is_at_registry=True)
    led = lead(one, now, parts)
    assert led.led is not None
    plan = NamedPlan(
        revision="0" * 32,
        files=(),
        location=led.location,
        principal=led.principal,
        led=led.led,
        named=led.led.named,
    )
    bucket = parts.resolver.locate("s3://private/x", SourceOptions())
    before = Named(uri=bucket.uri, origin=bucket.origin, registry="team")
    back = lead_back(one, plan, before, parts)
    assert back.location.uri == bucket.uri
    assert back.principal is ANONYMOUS
    elsewhere = Named(uri=led.led.named.uri, origin=led.led.named.origin, registry="other")
    with pytest.raises(Forbidden):
        lead_back(one, plan, elsewhere, parts)
