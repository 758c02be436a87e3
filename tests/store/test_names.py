"""Which names from a source can be paths in a snapshot."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachd.errors import PathUnsafe
from cachd.names import check_name, check_tree, escape

COMPONENT = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=80
)
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=300)
NASTY = st.lists(
    st.sampled_from(
        ["..", ".", "", "a", "A", "é", "e\u0301", "x" * 255, "x" * 256, "\0", "\\", "~"]
    )
    | COMPONENT,
    min_size=1,
    max_size=6,
).map("/".join)


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b",
        "...",
        "..a",
        "a..",
        ".hidden",
        "a b",
        "a\n",
        "\\..\\..\\a",
        "é",
        "x" * 255,
        "-",
        "~",
    ],
)
def test_a_harmless_name_passes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "//a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a/.", "a\0"],
)
def test_a_name_that_is_no_path_is_refused(name: str) -> None:
    with pytest.raises(PathUnsafe):
        check_name(name)


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "/".join(["x" * 255] * 17), "\ud800"])
def test_a_name_that_no_file_system_takes_is_refused(name: str) -> None:
    with pytest.raises(PathUnsafe):
        check_name(name)


def test_the_message_names_the_key_without_its_control_characters() -> None:
    with pytest.raises(PathUnsafe) as caught:
        check_name("../\x1b[2Jevil\n" + "x" * 5000)
    assert "\\x1b[2Jevil\\n" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 300


@given(NASTY | ANYTHING)
@example("a/../../b")
def test_an_accepted_name_stays_below_its_directory(name: str) -> None:
    """Normalisation changes nothing of it, so no step of it leads out or to another file."""
    try:
        check_name(name)
    except PathUnsafe:
        return
    assert os.path.normpath(name) == name
    assert not Path(name).is_absolute()
    root = Path("/a/tree")
    assert (root / name).relative_to(root).parts == tuple(name.split("/"))


@given(st.lists(NASTY | COMPONENT, max_size=8))
def test_accepted_names_can_all_be_files_of_one_tree(names: list[str]) -> None:
    try:
        check_tree(names)
    except PathUnsafe:
        return
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            with (root / name).open("x"):
                pass
        assert sum(len(files) for _, _, files in os.walk(root)) == len(names)


@pytest.mark.parametrize(
    "names",
    [["a", "a/b"], ["a/b/c", "a/b"], ["a/b", "x", "a"], ["a/b/c/d", "a"], ["a", "a"]],
)
def test_a_file_that_is_also_a_directory_is_refused(names: list[str]) -> None:
    for order in (names, names[::-1]):
        with pytest.raises(PathUnsafe):
            check_tree(order)


def test_prefixes_that_are_no_directories_are_fine() -> None:
    check_tree(["a", "ab", "a.b", "a b/c", "b/a", "b/ab"])


def test_case_matters_only_where_the_file_system_cannot_tell() -> None:
    check_tree(["Model.bin", "model.bin", "A/x", "a/y"])
    with pytest.raises(PathUnsafe, match="takes it for"):
        check_tree(["Model.bin", "model.bin"], is_case_sensitive=False)
    with pytest.raises(PathUnsafe):
        check_tree(["A", "a/y"], is_case_sensitive=False)


def test_unicode_forms_are_different_names() -> None:
    check_tree(["\u00e9", "e\u0301"])


def test_escape_is_printable_and_short() -> None:
    assert escape("a\nb") == "'a\\nb'"
    assert len(escape("x" * 10_000)) < 130
