"""The kinds of registries: the built-in ones, and entry points of others."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from typing import TYPE_CHECKING

from cachd.errors import ConfigInvalid, SchemeUnknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachd.registries.base import Registry
    from cachd.settings import RegistryRule

GROUP = "cachd.registries"
_BUILT_IN = {
    "model-registry": "cachd.registries.kubeflow:KubeflowRegistry",
    "mlflow": "cachd.registries.mlflow:MlflowRegistry",
}
_SCHEMES = {"models": "mlflow"}
"""Schemes that are no kind's name."""

_log = logging.getLogger(__name__)
_loaded: dict[str, Registry] = {}


def check_kinds(rules: Iterable[RegistryRule]) -> None:
    """Raises ConfigInvalid where a rule's kind is none: it would never be asked. Loads none."""
    known = {*_BUILT_IN, *(point.name for point in importlib.metadata.entry_points(group=GROUP))}
    for rule in rules:
        if rule.kind not in known:
            raise ConfigInvalid(
                f"registry {rule.name!r} has the kind {rule.kind!r}, which nobody knows",
                field="sources.registries",
                hint=f"kinds are {', '.join(sorted(known))}; a package may add others",
            )


def kind_of(scheme: str) -> Registry:
    """The kind whose URIs have ``scheme``. Raises SchemeUnknown, also for one that fails to
    load."""
    name = _SCHEMES.get(scheme, scheme)
    kind = _loaded.get(name)
    if kind is None:
        kind = _loaded[name] = _load(name)
    return kind


def _load(name: str) -> Registry:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        built_in: Registry = getattr(importlib.import_module(module), attribute)()
        return built_in
    for point in importlib.metadata.entry_points(group=GROUP, name=name):
        try:
            kind: Registry = point.load()()
        except Exception:
            _log.exception("the kind of registry %s (%s) can't be loaded", name, point.value)
        else:
            return kind
    raise SchemeUnknown(f"no kind of registry is called {name!r}", field="uri")
