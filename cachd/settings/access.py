"""Who may have what."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from cachd.errors import ConfigInvalid
from cachd.settings.values import Seconds, Section
from cachd.settings.yamls import yaml_fault

Verb = Literal["read", "fetch", "pin", "evict", "admin"]

_MAX_FILE = 4 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:-]{0,99}")


class AccessRule(Section):
    """One entry of `access.rules`. A list that is empty or missing means everybody, or everything;
    those that are there must all match."""

    name: str
    """What an error, the log and `cachd may` call it."""

    effect: Literal["allow", "deny"] = "allow"

    uids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Uids of processes, as the node's kernel sees them. A uid is no proof of which pod somebody
    is: many have the same."""

    namespaces: tuple[str, ...] = ()
    """Patterns (`*`, `?`) over the namespace of the caller's service-account token. Who sent no
    token is in none."""

    service_accounts: tuple[str, ...] = ()
    """Patterns over `namespace/name` of the caller's service account."""

    verbs: tuple[Verb, ...] = ()
    """`read` (hits, files, lists, leases), `fetch` (what is not cached), `pin`, `evict`, `admin`.
    Empty: in a rule that allows, `read` and `fetch`; in one that denies, all."""

    uris: tuple[str, ...] = ()
    """Patterns over the whole URI, without its credentials. A `*` crosses slashes."""

    identity: bool = False
    """Lend the daemon's own identity to whom this rule allows `read`."""

    open_hits: bool = False
    """Give what is cached to whom this rule allows `read`, without asking the source whether they
    may have it."""

    @field_validator("name")
    @classmethod
    def _name_can_be_told(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a name has up to 100 letters, digits, spaces and . _ / : -")
        return name

    @field_validator("service_accounts")
    @classmethod
    def _accounts_have_a_namespace(cls, accounts: tuple[str, ...]) -> tuple[str, ...]:
        for account in accounts:
            if account.count("/") != 1:
                raise ValueError("a service account is namespace/name, such as team-a/*")
        return accounts

    @model_validator(mode="after")
    def _a_denial_lends_nothing(self) -> AccessRule:
        if self.effect == "deny" and (self.identity or self.open_hits):
            raise ValueError("a rule that denies can't have identity or open_hits")
        return self


def _check_names(rules: tuple[AccessRule, ...]) -> tuple[AccessRule, ...]:
    twice = [name for name, count in Counter(rule.name for rule in rules).items() if count > 1]
    if twice:
        raise ValueError(f"two rules have the name {twice[0]!r}")
    return rules


class AccessSettings(Section):
    """Who may have what."""

    rules: tuple[AccessRule, ...] = ()
    """Who may do what: a list of `name`, `effect` (`allow`, the default, or `deny`), `uids`,
    `namespaces`, `service_accounts`, `verbs`, `uris`, `identity` and `open_hits`; see
    docs/security.md. The first that matches decides. The administrators' socket may always do
    everything. In the environment: JSON."""

    rules_file: Path | None = None
    """A YAML file with more rules (a list, or a mapping with `rules`), which come after those of
    `access.rules`. It is read again when it changes, and on SIGHUP. One that can't be used
    leaves the rules as they were, and `/readyz` and `cachd_access_rules_stale` say so; at the
    start the daemon refuses it."""

    default: Literal["allow", "deny"] = "allow"
    """Whether `read` and `fetch` are allowed where no rule matches. `pin`, `evict` and `admin` over
    the pods' socket always take a rule that names them."""

    share_identity: bool = False
    """The single-tenant switch: let the daemon's own identity (its environment, its profile) serve
    every caller. Off: only callers of its own uid (`access.trust_own_uid`)."""

    identity_uids: tuple[int, ...] = ()
    """Further uids that the daemon's own identity serves."""

    trust_own_uid: bool | None = None
    """Whether the daemon's own identity serves callers of the daemon's own uid. None: yes, unless
    `kubernetes.enabled` is set, for in a cluster whoever makes a pod chooses its uid."""

    open_hits: bool = False
    """Give what is cached to every caller, without asking the source whether the caller may have
    it. For a node whose pods may all read every model."""

    probe_ttl: Seconds = 300.0
    """Seconds that a source's yes to one caller is remembered."""

    @field_validator("rules")
    @classmethod
    def _names_are_unique(cls, rules: tuple[AccessRule, ...]) -> tuple[AccessRule, ...]:
        return _check_names(rules)


_RULES = TypeAdapter(tuple[AccessRule, ...])


def read_rules(file: Path, others: tuple[AccessRule, ...] = ()) -> tuple[AccessRule, ...]:
    """``others`` and then the rules in ``file``. Raises ConfigInvalid saying what is wrong."""
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise _unusable(file, f"can't be read: {error.strerror}") from None
    if len(text) > _MAX_FILE:
        raise _unusable(file, f"is larger than {_MAX_FILE >> 20} MiB")
    try:
        data = yaml.safe_load(text.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _unusable(file, f"is no YAML: {yaml_fault(error)}") from None
    except (ValueError, RecursionError):
        raise _unusable(file, "is no YAML that can be read") from None
    if isinstance(data, dict) and set(data) == {"rules"}:
        data = data["rules"]
    if not isinstance(data, list):
        # An empty file is what a mount shows for a moment; no rules are said with [].
        raise _unusable(file, "must hold a list of rules ([] for none)")
    try:
        return _check_names((*others, *_RULES.validate_python(data)))
    except ValidationError as error:
        raise _unusable(file, f"is wrong at {_places(error)}") from None
    except ValueError as error:
        raise _unusable(file, f"can't be used: {error}") from None


def _places(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        ".".join(map(str, item["loc"])) + ": " + item["msg"].removeprefix("Value error, ")
        for item in found[:3]
    )


def _unusable(file: Path, what: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"the rules file {file} {what}",
        field="access.rules_file",
        hint="see docs/security.md for what a rule looks like",
    )
