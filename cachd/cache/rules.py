"""Who may do what to which URI, by rules. Pure.

The first rule that matches decides. Where the API server couldn't say who a caller is, a rule by
namespace or service account may match or not: then there is a decision only if it is the same
either way.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from functools import lru_cache
from posixpath import normpath
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote_to_bytes, urlsplit

from cachd.globs import literal_start, matches_any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from cachd.cache.types import Caller
    from cachd.settings import AccessRule, Verb

_DEFAULT_VERBS: dict[str, frozenset[str]] = {
    "allow": frozenset({"read", "fetch"}),
    "deny": frozenset({"read", "fetch", "pin", "evict", "admin"}),
}
_WEB = ("http://", "https://", "git+http://", "git+https://", "mlflow-artifacts://")
_TREES = (
    "s3://",
    "gs://",
    "hdfs://",
    "webhdfs://",
    "swebhdfs://",
    "hf://",
    "modelscope://",
    "file://",
    *_WEB,
)
"""Schemes whose URIs name directories: one above what is denied would show it."""
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_UNESCAPED = "/-_.~!$&'()*+,;=:@[]"
"""What stays as it is in a path: RFC 3986's pchar, and what stands in its hosts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """``rule``: the name of the one that decided, "" for none. ``lends_identity`` and
    ``has_open_hits``: what the rule gives besides. ``is_unknown``: it depends on who the caller is,
    and that couldn't be found out; then nothing is allowed."""

    is_allowed: bool
    rule: str = ""
    lends_identity: bool = False
    has_open_hits: bool = False
    is_unknown: bool = False


def both(one: Decision, other: Decision | None) -> Decision:
    """What is allowed where two URIs are concerned: a registry's name, and what it led to. The
    identity is lent by the rule for the name."""
    if other is None or not one.is_allowed:
        return one
    if not other.is_allowed:
        return other
    return replace(one, has_open_hits=one.has_open_hits and other.has_open_hits)


ADMINISTRATOR = Decision(is_allowed=True)

_PEER = Decision(is_allowed=True)
_PEER_VERBS = frozenset({"read", "fetch"})
"""Another daemon's callers are subject to that daemon's rules."""


def decide(
    rules: Sequence[AccessRule],
    caller: Caller,
    verb: Verb,
    uri: str | None,
    default: Literal["allow", "deny"] = "allow",
) -> Decision:
    """Whether ``caller`` may ``verb`` what ``uri`` names; None: what concerns no one model."""
    return for_caller(rules, caller, verb, default)(uri)


def for_caller(
    rules: Sequence[AccessRule],
    caller: Caller,
    verb: Verb,
    default: Literal["allow", "deny"] = "allow",
) -> Callable[[str | None], Decision]:
    """``decide`` for one caller and verb, for many URIs."""
    if caller.role == "admin":
        return lambda uri: ADMINISTRATOR
    if caller.role == "peer":
        return lambda uri: _PEER if verb in _PEER_VERBS else Decision(is_allowed=False)
    last = Decision(is_allowed=default == "allow" and verb in _DEFAULT_VERBS["allow"])
    matching: list[tuple[AccessRule, bool]] = []
    for rule in rules:
        who = _matches_caller(rule, caller) if verb in _verbs(rule) else False
        if who is not False:
            matching.append((rule, who is None))

    def decide_uri(uri: str | None) -> Decision:
        possible: list[Decision] = []
        for rule, is_open_question in matching:
            if _matches_uri(rule, uri):
                possible.append(_decision(rule))
                if not is_open_question:
                    break
        else:
            possible.append(last)
        first = possible[0]
        if all(_same(other, first) for other in possible):
            return first
        return Decision(is_allowed=False, rule=first.rule, is_unknown=True)

    return decide_uri


def could_allow(
    rules: Sequence[AccessRule], caller: Caller, verb: Verb, default: Literal["allow", "deny"]
) -> bool:
    """Whether there is any URI for which ``caller`` may ``verb``, as far as the rules' ``uris``
    aren't looked at."""
    if caller.role != "pod":
        return caller.role == "admin" or verb in _PEER_VERBS
    for rule in rules:
        if verb in _verbs(rule) and _matches_caller(rule, caller) is not False:
            if rule.effect == "allow":
                return True
            if not rule.uris and _matches_caller(rule, caller):
                return False
    return default == "allow" and verb in _DEFAULT_VERBS["allow"]


def always_allows(
    rules: Sequence[AccessRule], caller: Caller, verb: Verb, default: Literal["allow", "deny"]
) -> bool:
    """Whether ``caller`` may ``verb`` whatever the URI."""
    if caller.role != "pod":
        return caller.role == "admin" or verb in _PEER_VERBS
    for rule in rules:
        who = _matches_caller(rule, caller) if verb in _verbs(rule) else False
        if rule.effect == "deny" and who is not False:
            return False
        if rule.effect == "allow" and who and not rule.uris:
            return True
    return default == "allow" and verb in _DEFAULT_VERBS["allow"]


def _same(one: Decision, other: Decision) -> bool:
    return (
        one.is_allowed == other.is_allowed
        and one.lends_identity == other.lends_identity
        and one.has_open_hits == other.has_open_hits
    )


def _decision(rule: AccessRule) -> Decision:
    return Decision(
        is_allowed=rule.effect == "allow",
        rule=rule.name,
        lends_identity=rule.identity,
        has_open_hits=rule.open_hits,
    )


def _verbs(rule: AccessRule) -> Collection[str]:
    return rule.verbs or _DEFAULT_VERBS[rule.effect]


def _matches_caller(rule: AccessRule, caller: Caller) -> bool | None:
    """None: nobody knows, for the API server couldn't be asked."""
    if rule.uids and caller.uid not in rule.uids:
        return False
    if not rule.namespaces and not rule.service_accounts:
        return True
    if caller.unproven:
        return None
    if not caller.namespace or not caller.service_account:
        return False
    account = f"{caller.namespace}/{caller.service_account}"
    return (not rule.namespaces or matches_any(rule.namespaces, caller.namespace)) and (
        not rule.service_accounts or matches_any(rule.service_accounts, account)
    )


def _matches_uri(rule: AccessRule, uri: str | None) -> bool:
    """One that allows must match every spelling, one that denies any of them."""
    if not rule.uris:
        return True
    if uri is None:
        return False
    patterns = _web_patterns(rule.uris) if uri.startswith(_WEB) else rule.uris
    if rule.effect == "allow":
        return all(matches_any(patterns, text) for text in spellings(uri))
    # A version, or a parameter that the server passes over, is no other model.
    texts = (*spellings(uri), *spellings(uri.partition("?")[0]))
    return _is_above(uri, patterns) or any(matches_any(patterns, text) for text in texts)


def _is_above(uri: str, patterns: Sequence[str]) -> bool:
    """Whether ``uri`` is a directory in which all lies that a pattern can match."""
    if not uri.startswith(_TREES):
        return False
    directory = uri.partition("?")[0].rstrip("/") + "/"
    return any(literal_start(pattern).startswith(directory) for pattern in patterns)


@lru_cache(maxsize=4096)
def spellings(uri: str) -> tuple[str, ...]:
    """``uri``, and what a web server may take it for: dots and doubled slashes resolved, escaped
    slashes decoded."""
    if not uri.startswith(_WEB):
        return (uri,)
    parts = urlsplit(uri)
    path = unquote_to_bytes(parts.path)
    plain = normpath(b"/" + path.lstrip(b"/"))
    if path.endswith(b"/") and plain != b"/":
        plain += b"/"
    query = f"?{parts.query}" if parts.query else ""
    # A name with a last dot is the same host.
    host = re.sub(r"\.(?=:|$)", "", parts.netloc)
    other = f"{parts.scheme}://{host}{quote(plain, safe=_UNESCAPED)}{query}"
    return tuple(dict.fromkeys((_even(uri), _even(other))))


@lru_cache(maxsize=1024)
def _web_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_even, patterns))


def _even(text: str) -> str:
    """With one way of writing each character (RFC 3986, section 6.2.2), slashes apart."""
    found = re.sub("%[0-9A-Fa-f]{2}", _decode, text)
    return quote(found, safe=_UNESCAPED + "%?*[]")


def _decode(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if character in _UNRESERVED else match[0].upper()
