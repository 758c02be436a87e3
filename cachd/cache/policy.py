"""The rules in force: asked at every call, read again when their file changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from cachd.cache import rules as judging
from cachd.errors import ConfigInvalid, Forbidden, KubernetesFailed
from cachd.settings import read_rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cachd.cache.rules import Decision
    from cachd.cache.types import Caller
    from cachd.metrics import Metrics
    from cachd.settings import AccessRule, AccessSettings, Verb

log = logging.getLogger("cachd.access")

LOOK_INTERVAL = 1.0
"""Seconds between looks at the rules file: one call of stat."""


class Policy:
    """``load`` before anything is asked; ``start`` and ``close`` watch the file."""

    def __init__(self, settings: AccessSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._rules: tuple[AccessRule, ...] = settings.rules
        self._seen: tuple[int, ...] | None = None
        self._fault = ""
        self._task: asyncio.Task[None] | None = None
        self._one_by_one = asyncio.Lock()

    # --- asking -----------------------------------------------------------------------------

    def decide(self, caller: Caller, verb: Verb, uri: str | None) -> Decision:
        return judging.decide(self._rules, caller, verb, uri, self._settings.default)

    def reader(self, caller: Caller) -> Callable[[str], Decision]:
        """``decide`` whether the caller may read, for many URIs; each is judged once."""
        by_uri = judging.for_caller(self._rules, caller, "read", self._settings.default)
        known: dict[str, Decision] = {}

        def decide_uri(uri: str) -> Decision:
            found = known.get(uri)
            if found is None:
                found = known[uri] = by_uri(uri)
            return found

        return decide_uri

    def reads_all(self, caller: Caller) -> bool:
        """Whether no rule keeps the caller from reading anything."""
        return judging.always_allows(self._rules, caller, "read", self._settings.default)

    def explain(self, caller: Caller, verb: Verb, uri: str | None) -> dict[str, Any]:
        """The decision with its reason; nothing is counted."""
        decision = self.decide(caller, verb, uri)
        if caller.role == "admin":
            reason = "the administrators' socket may do everything"
        elif decision.rule:
            reason = f"the first rule that matches is {decision.rule!r}"
        elif verb in ("read", "fetch"):
            reason = f"no rule matches, and access.default is {self._settings.default}"
        else:
            reason = "no rule matches, and over the pods' socket this takes one that names the verb"
        return {
            "allowed": decision.is_allowed,
            "rule": decision.rule or None,
            "reason": reason,
            "identity": decision.lends_identity,
            "open_hits": decision.has_open_hits,
        }

    def check(self, caller: Caller, verb: Verb, uri: str | None, what: str = "") -> Decision:
        """The decision, if it allows. ``what`` is told in the place of ``uri``. Raises Forbidden,
        KubernetesFailed where it depends on who the caller is and nobody can tell."""
        decision = self.decide(caller, verb, uri)
        if not decision.is_allowed:
            raise self._refusal(caller, verb, what or uri or "the whole cache", decision)
        return decision

    def check_any(self, caller: Caller, verb: Verb, what: str) -> None:
        """Raises Forbidden unless there is some URI for which ``caller`` may ``verb``: what can be
        said before the URI is known."""
        if not judging.could_allow(self._rules, caller, verb, self._settings.default):
            self._count(caller, verb, what, "")
            raise Forbidden(
                f"{what} is for administrators",
                hint="use the administrators' socket (CACHD_ADMIN_SOCKET, admin.sock beside the "
                f"other), or have a rule that allows {verb} (access.rules)",
                verb=verb,
            )

    def _refusal(
        self, caller: Caller, verb: Verb, what: str, decision: Decision
    ) -> Forbidden | KubernetesFailed:
        if decision.is_unknown:
            return KubernetesFailed(
                f"whether {caller.describe()} may {verb} {what} depends on its service account, "
                f"and {caller.unproven}",
                hint="ask again in a moment; see /readyz and the daemon's log",
                verb=verb,
            )
        self._count(caller, verb, what, decision.rule)
        why = f"rule {decision.rule!r} denies it" if decision.rule else "no rule allows it"
        return Forbidden(
            f"{caller.describe()} may not {verb} {what}: {why}",
            hint=_hint(caller, verb),
            verb=verb,
            rule=decision.rule,
        )

    def _count(self, caller: Caller, verb: Verb, what: str, rule: str) -> None:
        self._metrics.denied(verb)
        log.info(
            "denied: %s may not %s %s (rule %s)",
            caller.describe(),
            verb,
            what,
            repr(rule) if rule else "none",
            extra={"verb": verb, "rule": rule},
        )

    # --- the file ---------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the file for the first time. Raises ConfigInvalid."""
        file = self._settings.rules_file
        if file is not None:
            self._seen, self._rules = await asyncio.to_thread(self._read, file)
            log.info("%d access rules, those of %s among them", len(self._rules), file)
        self._metrics.rules(len(self._rules), is_stale=False)

    def start(self) -> None:
        if self._settings.rules_file is not None and self._task is None:
            self._task = asyncio.create_task(self._watch(), name="access rules")

    async def close(self) -> None:
        """A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def reload(self) -> None:
        """Read the file now. What can't be used leaves the rules as they are."""
        file = self._settings.rules_file
        if file is None:
            return
        async with self._one_by_one:
            try:
                self._seen, self._rules = await asyncio.to_thread(self._read, file)
            except ConfigInvalid as error:
                if error.message != self._fault:
                    log.error("the access rules stay as they were: %s", error.message)
                    self._metrics.rules_read("failed")
                self._fault = error.message
            else:
                self._fault = ""
                log.info("%d access rules are in force, read from %s", len(self._rules), file)
                self._metrics.rules_read("ok")
            self._metrics.rules(len(self._rules), is_stale=bool(self._fault))

    def complaints(self) -> list[str]:
        """What is wrong with the rules, for an operator."""
        return [f"the access rules are those of before: {self._fault}"] if self._fault else []

    def _read(self, file: Path) -> tuple[tuple[int, ...] | None, tuple[AccessRule, ...]]:
        # Looked at first: a change in between is then seen by the next look.
        seen = _look(file)
        return seen, read_rules(file, self._settings.rules)

    async def _watch(self) -> None:
        file = self._settings.rules_file
        assert file is not None
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            if self._fault or await asyncio.to_thread(_look, file) != self._seen:
                await self.reload()


def _look(file: Path) -> tuple[int, ...] | None:
    """What changes when the file does, through links: kubelet swaps a link to a directory."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _hint(caller: Caller, verb: Verb) -> str:
    options = "" if caller.uid is None else f" --uid {caller.uid}"
    if caller.namespace:
        options += f" --service-account {caller.namespace}/{caller.service_account}"
    else:
        options += " (no service-account token was sent)"
    return f"an operator can allow it (access.rules); explained by: cachd may {verb} URI{options}"
