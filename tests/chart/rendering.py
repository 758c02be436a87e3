"""The chart rendered by real helm, each rendering once."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers.require import missing

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/cachd"
HELM = Path(sys.executable).parent / "helm"
VALUES_FILES = sorted((CHART / "ci").glob("*-values.yaml"))

Object = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not HELM.exists():
        missing("helm-binary (beside this Python)")
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)


@cache
def _template(arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return helm("template", "nodes", str(CHART), "--namespace=cache", *arguments)


def _arguments(settings: tuple[str, ...], values: Path | None, version: str) -> tuple[str, ...]:
    return (
        *([f"-f={values}"] if values else []),
        *(f"--set={setting}" for setting in settings),
        *([f"--kube-version={version}"] if version else []),
    )


def render(*settings: str, values: Path | None = None, version: str = "") -> list[Object]:
    """The objects of a release ``nodes`` in the namespace ``cache``."""
    done = _template(_arguments(settings, values, version))
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def refusal(*settings: str, version: str = "") -> str:
    done = _template(_arguments(settings, None, version))
    assert done.returncode != 0, settings
    return done.stderr


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def the(objects: list[Object], kind: str) -> Object:
    (found,) = of_kind(objects, kind)
    return found


def pod_of(objects: list[Object]) -> Object:
    """The pod's spec in the DaemonSet or StatefulSet."""
    (workload,) = [o for o in objects if o["kind"] in ("DaemonSet", "StatefulSet")]
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def container_of(objects: list[Object]) -> Object:
    (container,) = pod_of(objects)["containers"]
    return dict(container)


def environment(container: Object) -> dict[str, str]:
    """Variables with plain values."""
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def values_id(path: object) -> str:
    return path.name.removesuffix("-values.yaml") if isinstance(path, Path) else str(path)


ci_values = pytest.mark.parametrize("values", VALUES_FILES, ids=values_id)
