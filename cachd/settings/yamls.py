"""What is wrong with a YAML file."""

from __future__ import annotations

import yaml


def yaml_fault(error: Exception) -> str:
    """In one line, and without the file's own characters."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is not allowed in it"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else type(error).__name__
