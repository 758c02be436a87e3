"""Allow and ignore patterns: which files of a model are wanted.

The rule is KServe's (``STORAGE_ALLOW_PATTERNS``, ``STORAGE_IGNORE_PATTERNS`` in
python/storage/kserve_storage/kserve_storage.py): ``fnmatch`` over the path relative to the model,
``*`` crosses ``/``, a file must match one of the allow patterns if there are any, and none of the
ignore patterns. A URI that names one exact object bypasses both; sources don't ask here then.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cachd.errors import NotFound, PatternInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_PATTERNS = 256
MAX_LENGTH = 1000


def check_patterns(patterns: Sequence[str], field: str) -> None:
    """Raises PatternInvalid, naming ``field``, for patterns that can't be meant."""
    if len(patterns) > MAX_PATTERNS:
        raise PatternInvalid(
            f"{field} has {len(patterns)} patterns; {MAX_PATTERNS} are the most", field=field
        )
    for pattern in patterns:
        fault = _fault(pattern)
        if fault:
            raise PatternInvalid(
                f"a pattern in {field} {fault}",
                field=field,
                hint="patterns are shell globs over relative paths, such as '*.safetensors'",
            )


def _fault(pattern: str) -> str:
    if not pattern:
        return "is empty"
    if "\0" in pattern:
        return "holds a NUL"
    if len(pattern) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    return ""


def is_wanted(path: str, allow: Iterable[str], ignore: Iterable[str]) -> bool:
    """Whether the file at ``path`` (relative, with ``/``) passes both lists."""
    allowed = tuple(allow)
    if allowed and not any(fnmatchcase(path, pattern) for pattern in allowed):
        return False
    return not any(fnmatchcase(path, pattern) for pattern in ignore)


def none_wanted(uri: str, allow: Sequence[str], ignore: Sequence[str]) -> NotFound:
    """What is wrong where a directory holds no file, or none that passes both lists."""
    patterns = ": nothing there passes the allow and ignore patterns"
    return NotFound(
        f"Failed to fetch model. No model found in {uri}"
        + (patterns if allow or ignore else ", which holds no files"),
        hint="check the path and the patterns",
    )
