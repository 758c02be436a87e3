"""From file, environment and options to settings."""

from __future__ import annotations

import difflib
import json
import os
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from cachd.environment import CLIENT_VARIABLES, is_service_link
from cachd.errors import ConfigInvalid
from cachd.settings.tree import Settings, variable_name, walk_fields
from cachd.settings.yamls import yaml_fault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """``CACHD_*`` names that mean nothing, Kubernetes' service links apart."""
    known = {variable_name(path) for path, _, _ in walk_fields()} | CLIENT_VARIABLES
    return sorted(
        name
        for name in environ
        if name.startswith("CACHD_") and name not in known and not is_service_link(name)
    )


def load_settings(
    file: Path | None,
    environ: Mapping[str, str] = os.environ,
    options: Mapping[str, tuple[str, str]] | None = None,
) -> Settings:
    """Settings from ``file`` under the environment, and ``options`` over both: a setting's name to
    the option that gave it and its text. Raises ConfigInvalid naming every fault and its place."""
    data = _read_file(file) if file else {}
    unknown = unknown_variables(environ)
    if unknown:
        raise ConfigInvalid(
            f"unknown environment variable {', '.join(unknown)}{suggest(unknown[0])}",
            field=unknown[0],
            hint="see docs/settings.md for every name; unset what cachd doesn't know",
        )
    givers: dict[str, str] = {}
    for path, section, name in walk_fields():
        giver, text = variable_name(path), environ.get(variable_name(path))
        if options and ".".join(path) in options:
            giver, text = options[".".join(path)]
        if text is not None:
            _set(data, path, _from_environment(text, section, name), file)
            givers[".".join(path)] = giver
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise _to_config_invalid(error, file, givers) from None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(
            f"can't read the configuration file {file}: {error.strerror}",
            hint="give its path with --config or CACHD_CONFIG",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"the configuration file {file} is no YAML: {yaml_fault(error)}",
            hint=f"correct {file}; `cachd check-config` tells when it is right",
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigInvalid(f"the configuration file {file} must hold a mapping of settings")
    return data


def _from_environment(text: str, section: type[BaseModel], name: str) -> Any:
    annotation = str(section.model_fields[name].annotation)
    if annotation.startswith("dict"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if "tuple" in annotation:
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return [item.strip() for item in text.split(",") if item.strip()]
    if text == "" and "None" in annotation:
        return None
    return text


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any, file: Path | None) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ConfigInvalid(f"{name} in {file} must be a mapping", field=name)
    data[path[-1]] = value


def _to_config_invalid(
    error: ValidationError, file: Path | None, givers: Mapping[str, str]
) -> ConfigInvalid:
    problems: list[str] = []
    places: dict[str, None] = {}
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = f"no such setting{suggest(where)}"
        elif item["type"] in ("byte_size", "byte_size_unit"):
            what = "write bytes, such as 16MiB or 16777216"
        problems.append(f"{where}: {what}" if where else what)
        places.update(dict.fromkeys(_places(where, file, givers)))
    first = ".".join(str(part) for part in error.errors()[0]["loc"])
    return ConfigInvalid(
        "; ".join(problems),
        field=first or None,
        hint=f"correct {', '.join(places)}; `cachd check-config` tells when it is right",
    )


def _places(where: str, file: Path | None, givers: Mapping[str, str]) -> list[str]:
    """Who gave the setting ``where``, or a setting in the section of that name."""
    if where in givers:
        return [givers[where]]
    found = [giver for name, giver in givers.items() if not where or name.startswith(f"{where}.")]
    return [*found, *([str(file)] if file else [])] or ["the configuration"]


def suggest(name: str) -> str:
    """`` (did you mean …?)`` for the name of a setting or of its variable, or nothing."""
    paths = [path for path, _, _ in walk_fields()]
    known = (
        [variable_name(path) for path in paths]
        if name.startswith("CACHD_")
        else [".".join(path) for path in paths]
    )
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
