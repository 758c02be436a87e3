"""A promise in the documents names the test that proves it, and that test is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "docs/behaviour.md",
    "docs/crash-matrix.md",
    "docs/extending.md",
    "docs/initializer.md",
    "docs/kserve.md",
    "docs/operations.md",
    "docs/security.md",
    "docs/sources.md",
)
_NAMED = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")


def named() -> list[tuple[str, str, str]]:
    """(page, file, function or "")."""
    found = set()
    for page in PAGES:
        path = ROOT / page
        if path.exists():
            matches = _NAMED.finditer(path.read_text(encoding="utf-8"))
            found |= {(page, match[1], match[2] or "") for match in matches}
    return sorted(found)


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ) | frozenset(
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    )


def test_the_promises_name_tests() -> None:
    assert len({name for page, _, name in named() if page == "docs/behaviour.md"}) >= 10


@pytest.mark.parametrize(("page", "file", "name"), named())
def test_the_named_test_is_there(page: str, file: str, name: str) -> None:
    assert (ROOT / file).is_file(), f"{page} names {file}"
    assert not name or name in functions(file), f"{page} names {file}::{name}"
