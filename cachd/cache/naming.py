"""Refs that are a registry's names: what the registry says, and how the ask goes on from there.

The ref, its key and what is proven of it are the name's. What is located, judged by the rules,
probed, mirrored and fetched is the artifact that the registry names; once planned, an ask stays
with that artifact, whatever the registry says meanwhile.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from cachd.cache.access import (
    ANONYMOUS,
    DAEMON,
    Principal,
    fingerprint_of,
    is_owner,
    may_use_daemon_identity,
)
from cachd.credentials import Credentials, SourceOptions
from cachd.errors import (
    AccessError,
    CachdError,
    ContentError,
    Forbidden,
    NotFound,
    OriginError,
    UriInvalid,
)
from cachd.model import Named, Plan
from cachd.schemes import REGISTRIES, scheme_of
from cachd.sources.base import SourceRequest
from cachd.sources.endpoints import endpoint_of
from cachd.sources.revisions import hash_state

if TYPE_CHECKING:
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.cache.types import Caller
    from cachd.model import Identity
    from cachd.settings import AccessSettings
    from cachd.sources.base import Location, Target

log = logging.getLogger("cachd.cache")

_OF_S3 = ("endpoint", "region", "addressing", "accelerate", "verify")
"""Options that are meant for S3 where nobody knows yet what the registry will name: another
source's server would be taken for that endpoint, or get tokens without being verified."""
_OF_REGISTRIES = frozenset(
    {
        "registry_token",
        "registry_username",
        "registry_password",
        "registry_user",
        "registry_client_pem",
    }
)
_OF_ONE_SERVER = frozenset({"username", "password", "token", "client_pem", "query"})
"""What a caller sends for a server that it names itself. Who writes into a registry must not be
able to have it sent to a server of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """A registry's answer. ``principal`` is whose pass it saw. ``is_credentialed``: whether that is
    more than everybody here may show it."""

    target: Target
    registry: str
    principal: Principal
    is_credentialed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Led:
    """How an ask goes on: ``named`` is the artifact, ``whole`` whose asks what is proven is good
    for."""

    naming: Naming
    named: Named
    whole: Principal

    @property
    def identity(self) -> Identity:
        """Whose pass the registry needed."""
        return self.naming.principal.identity if self.naming.is_credentialed else "anonymous"

    def revision_of(self, revision: str, *, is_validated: bool) -> str:
        """The name's revision where the artifact's is ``revision``."""
        row = [revision, self.named.origin, self.named.uri]
        if not is_validated:
            row.append(self.naming.target.identity)
        return hash_state(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPlan(Plan):
    """A plan of an artifact under a registry's name, with the way to it."""

    location: Location
    principal: Principal
    led: Led


def lending_of(
    caller: Caller, settings: AccessSettings, daemon_uid: int | None, *, is_lent: bool
) -> str:
    """How far the daemon's identity serves the caller: "daemon" anywhere, "lent" at default origins
    and configured registries, or "" nowhere."""
    if caller.role == "peer":
        return ""
    if is_owner(caller, daemon_uid):
        return "daemon"
    return "lent" if is_lent or may_use_daemon_identity(caller, settings, daemon_uid) else ""


def whole_principal(credentials: Credentials, lending: str) -> Principal:
    """Who asks, as far as it decides whose pass the registry and the artifact's source will see."""
    if credentials.is_empty:
        if lending == "daemon":
            return DAEMON
        if not lending:
            return ANONYMOUS
        return Principal(identity="daemon", fingerprint="lent")
    mark = fingerprint_of(credentials)
    return Principal(
        identity="caller", credentials=credentials, fingerprint=f"{mark}/{lending}".rstrip("/")
    )


async def name(asked: Asked, parts: Parts, patience: float) -> Naming:
    """What the first registry that knows the name says.

    One that doesn't know it is passed over. One that is down or refuses might know it: then only
    the registry that named this very ref before is heard, or else nobody, for a later one's model
    of that name may be another. An optional one is passed over nevertheless, unless it named the
    ref before. Raises NotFound, AccessError, OriginError.
    """
    places = asked.location.registries
    patience = patience if len(places) == 1 else 0.0
    missing: NotFound | None = None
    trouble: CachdError | None = None
    absent: CachdError | None = None
    trusted = _before(asked, parts)
    optional = {rule.name for rule in parts.settings.sources.registries if rule.optional}
    for place in places:
        who = place[0] or place[1]
        if trouble is not None and who != trusted:
            continue
        try:
            naming = await _ask(asked, place, parts, patience)
        except NotFound as error:
            missing = missing or error
        except (AccessError, OriginError) as error:
            log.warning("%s: %s: %s", asked.ref.key, who, error.message)
            if who in optional and who != trusted:
                absent = absent or error
            else:
                trouble = trouble or error
        else:
            parts.named_by.note(asked.ref, naming.registry)
            return naming
    if trouble is not None:
        if len(places) > 1:
            trouble.hint = (
                "it comes before others in sources.registries, which aren't asked while it might "
                "know the name; name a registry in the URI (?registry=NAME) to ask that one, or "
                "make the one that is down optional"
            )
        raise trouble
    if absent is not None:
        # It might know the name: that it doesn't exist is more than anybody knows.
        if missing is not None:
            absent.message = (
                f"no registry that answered knows {asked.ref.uri}, and an optional one didn't "
                f"answer: {absent.message}"
            )
        raise absent
    assert missing is not None
    if len(places) > 1:
        tried = ", ".join(place[0] or place[1] for place in places)
        raise NotFound(f"no registry knows {asked.ref.uri}; asked were {tried}", hint=missing.hint)
    raise missing


def _before(asked: Asked, parts: Parts) -> str:
    """The registry that named the ref before, "" for none."""
    known = parts.named_by.of(asked.ref)
    if known:
        return known
    snapshot = parts.store.current_even_corrupt(asked.ref)
    named = snapshot.info.named if snapshot is not None else None
    return named.registry if named is not None else ""


async def _ask(asked: Asked, place: tuple[str, str], parts: Parts, patience: float) -> Naming:
    who, url = place
    principal, is_shared = _pass_for(asked, who, parts)
    options = asked.location.options
    if principal is DAEMON and asked.lending != "daemon":
        options = _own_trust(options)
    request = SourceRequest(
        location=replace(asked.location, registries=(place,), options=options),
        identity=principal.identity,
        credentials=principal.credentials,
    )
    server = f"{asked.location.origin.partition('+')[0]}+{url}"
    result = "failed"
    try:
        target = await parts.mover.gates.call(
            server, patience, lambda: parts.resolver.name(request)
        )
        result = "named"
    except NotFound:
        result = "unknown"
        raise
    except AccessError:
        result = "refused"
        parts.proofs.revoke_fingerprint(asked.prover.fingerprint, asked.ref)
        raise
    finally:
        parts.metrics.registry_asked(who, result)
    return Naming(
        target=target,
        registry=who or url,
        principal=principal,
        is_credentialed=target.is_credentialed and not is_shared,
    )


def _own_trust(options: SourceOptions) -> SourceOptions:
    """Whom the daemon trusts by itself: what it shows for others goes nowhere else."""
    own = replace(options, verify=None, ca_pem=None)
    return replace(own, registry_verify=None, registry_ca_pem=None)


def _pass_for(asked: Asked, who: str, parts: Parts) -> tuple[Principal, bool]:
    """Whose pass the registry is shown, and whether that is everybody's here."""
    own = _only(asked.principal.credentials, _OF_REGISTRIES)
    if not own.is_empty:
        return Principal(identity="caller", credentials=own, fingerprint=fingerprint_of(own)), False
    rules = parts.settings.sources.registries
    if any(rule.name == who and rule.share for rule in rules):
        return DAEMON, True
    if asked.lending == "daemon" or (asked.lending and _is_ours(asked)):
        return DAEMON, False
    return ANONYMOUS, False


def lead(asked: Asked, naming: Naming, parts: Parts) -> Asked:
    """The ask at what the registry named, with the pass that its source is to see. Asks nobody.
    Raises ContentError where that is no URI that can be followed."""
    target, registry = naming.target, naming.registry
    chained = ContentError(
        f"the registry {registry} names another registry's name for {asked.ref.uri}",
        hint="register the artifact's own URI; names of names aren't followed",
    )
    if scheme_of(target.uri) in REGISTRIES:
        raise chained
    try:
        location = parts.resolver.locate(target.uri, _options(asked.location.options, target))
    except UriInvalid as error:
        raise ContentError(
            f"the registry {registry} names an artifact for {asked.ref.uri} that can't be had: "
            f"{error.message}",
            hint=error.hint,
        ) from None
    if location.registries:
        raise chained
    named = Named(uri=location.uri, origin=location.origin, registry=registry)
    principal = naming.principal if target.is_at_registry else _store_principal(asked, location)
    if principal is DAEMON and asked.lending != "daemon" and location.scheme != "s3":
        # A token is shown: as in ``Lookup.understand``.
        location = replace(location, options=_own_trust(location.options))
    return replace(
        asked,
        location=location,
        principal=principal,
        led=Led(naming=naming, named=named, whole=asked.principal),
    )


def lead_back(asked: Asked, plan: Plan, named: Named | None, parts: Parts) -> Asked:
    """The ask at an artifact that the name led to before ``plan``'s. Raises Forbidden where there
    is no way back to it."""
    if isinstance(plan, NamedPlan) and named is not None:
        place = endpoint_of(named.origin)
        is_at_registry = scheme_of(named.uri) == "mlflow-artifacts"
        if is_at_registry:
            # Its pass is for the registry that was asked just now, and for no other.
            known = plan.led.naming.registry == named.registry
            choices = [SourceOptions(registry=place)] if known else []
        else:
            choices = [SourceOptions(), SourceOptions(endpoint=place)]
        for options in choices:
            target = replace(
                plan.led.naming.target,
                uri=named.uri,
                options=options,
                is_at_registry=is_at_registry,
            )
            led = lead(asked, replace(plan.led.naming, target=target), parts)
            if (led.location.uri, led.location.origin) == (named.uri, named.origin):
                return led
    raise Forbidden(
        f"the revision of {asked.ref.uri} that is given needed credentials at another place than "
        "the one that its registry names now, and nobody can check yours there",
        hint="promote the newer revision (`cachd promote`), or set access.open_hits",
    )


def _is_ours(asked: Asked) -> bool:
    """Whether the registry isn't one that the caller chose: it would choose the artifact, too."""
    return asked.location.is_default_origin and not asked.location.is_callers_server


def _store_principal(asked: Asked, location: Location) -> Principal:
    """The caller's pass for the artifact's source, the daemon's where that is lent, or none."""
    given = asked.principal.credentials
    credentials = _without(given, _OF_REGISTRIES | _OF_ONE_SERVER)
    if location.secret_query:
        credentials = replace(credentials, query=location.secret_query, anonymous=False)
    if credentials.anonymous and credentials == Credentials(anonymous=True):
        return ANONYMOUS
    if not credentials.is_empty:
        mark = fingerprint_of(credentials)
        return Principal(identity="caller", credentials=credentials, fingerprint=mark)
    if asked.lending == "daemon" or (
        asked.lending and _is_ours(asked) and location.is_default_origin
    ):
        return DAEMON
    return ANONYMOUS


def _options(own: SourceOptions, target: Target) -> SourceOptions:
    """The caller's, as far as they can be meant for the artifact's source, and the registry's."""
    options = replace(own, registry=None, registry_verify=None, registry_ca_pem=None)
    if not target.uri.lower().removeprefix("cachd+").startswith("s3://"):
        options = replace(options, **dict.fromkeys(_OF_S3))
    if "://" in (options.root or ""):
        options = replace(options, root=None)
    said = {
        each.name: value
        for each in fields(target.options)
        if (value := getattr(target.options, each.name)) is not None
    }
    if target.is_at_registry:
        # It is reached as it was for the question.
        said |= {"verify": own.registry_verify, "ca_pem": own.registry_ca_pem or own.ca_pem}
    return replace(options, **said)


def _only(credentials: Credentials, names: frozenset[str]) -> Credentials:
    return Credentials(**{name: getattr(credentials, name) for name in names})


def _without(credentials: Credentials, names: frozenset[str]) -> Credentials:
    kept = {f.name: getattr(credentials, f.name) for f in fields(credentials)}
    return Credentials(**{name: value for name, value in kept.items() if name not in names})


def name_plan(plan: Plan, asked: Asked) -> Plan:
    """The artifact's plan as the ref's; ``plan`` itself where the ref is no registry's name.

    The same artifact registered once more is the same revision; where nothing tells its states
    apart, the registry's own version does.
    """
    led = asked.led
    if led is None:
        return plan
    target, named = led.naming.target, led.named
    known = {f.name: getattr(plan, f.name) for f in fields(plan)}
    known |= {
        "revision": led.revision_of(plan.revision, is_validated=plan.is_validated),
        "is_immutable": False,
        "is_credentialed": plan.is_credentialed or led.naming.is_credentialed,
        "identity": strongest(asked.principal.identity, led.identity),
        "metadata": {**plan.metadata, **target.metadata, "source": named.uri},
        "named": named,
    }
    return NamedPlan(**known, location=asked.location, principal=asked.principal, led=led)


def strongest(one: Identity, other: Identity) -> Identity:
    """Whose pass counts, where two were used."""
    if "caller" in (one, other):
        return "caller"
    return "daemon" if "daemon" in (one, other) else "anonymous"


def follow(asked: Asked, plan: Plan) -> Asked:
    """The ask at the artifact that ``plan`` is of."""
    if not isinstance(plan, NamedPlan):
        return asked
    return replace(asked, location=plan.location, principal=plan.principal, led=plan.led)
