"""Examples in the documents are commands that cachd takes, with URIs that its sources know; and the
table of deviations has a line for each deviation that the conformance tests know."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cachd.cli.local import local_path
from cachd.cli.parser import build
from cachd.cli.request import request_body
from cachd.credentials import SourceOptions
from cachd.settings import RegistryRule, SourcesSettings
from cachd.sources.resolver import Resolver
from tests.conformance.test_kserve import ROWS

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/sources.md", "docs/initializer.md")
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_ENVIRON = re.compile(r"(\w+)=(.*)", re.DOTALL)
_MARK = re.compile(r"<!-- ((?:C\d+(?:, )?)+) -->")
_FILES = ("GOOGLE_APPLICATION_CREDENTIALS",)

SETTINGS = SourcesSettings(
    registries=(
        RegistryRule(name="own", kind="model-registry", url="http://registry.example:8080"),
        RegistryRule(name="tracking", kind="mlflow", url="http://mlflow.example:5000"),
    )
)


def whole(text: str) -> str:
    """``text`` with something in place of each ``…``; digests get their length."""
    text = re.sub(
        r"sha256:([0-9a-f]*)…([0-9a-f]*)",
        lambda m: f"sha256:{m[1]}{'0' * (64 - len(m[1]) - len(m[2]))}{m[2]}",
        text,
    )
    return text.replace("…", "x")


def words_of(line: str) -> tuple[dict[str, str], list[str]]:
    """The variables before a command, and the command."""
    words = shlex.split(whole(line), comments=True)
    environ = {}
    while words and (match := _ENVIRON.fullmatch(words[0])):
        environ[match[1]] = match[2]
        words.pop(0)
    return environ, words


def examples() -> list[tuple[str, str]]:
    """(page, line) of each command line of cachd's."""
    found = []
    for page in PAGES:
        for block in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                (page, line)
                for line in lines
                if "cachd" in line and words_of(line)[1][:1] == ["cachd"]
            ]
    return found


def parsed(words: list[str]) -> list[argparse.Namespace]:
    """By the command line's parser; KServe's form as the pulls that it stands for."""
    if "://" not in words[0]:
        return [build().parse_args(words)]
    pairs = zip(words[::2], words[1::2], strict=True)
    return [build().parse_args(["pull", "--", uri, place]) for uri, place in pairs]


def test_there_are_examples_of_every_scheme() -> None:
    schemes = {match for _, line in examples() for match in re.findall(r"([a-z0-9-]+):/", line)}
    known = {"s3", "gs", "https", "abfss", "hf", "modelscope", "hdfs", "webhdfs", "oci", "file"}
    assert schemes >= known | {"model-registry", "mlflow", "models"}


@pytest.mark.parametrize(("page", "line"), examples())
def test_the_example_is_a_command_with_a_uri_that_a_source_takes(page: str, line: str) -> None:
    environ, words = words_of(line)
    for arguments in parsed(words[1:]):
        uri = getattr(arguments, "uri", None)
        if uri is None:
            continue
        if local_path(uri) is not None:
            assert uri.startswith(("/", "file:///")), "this is no local path"
            continue
        options: dict[str, Any] = {}
        if hasattr(arguments, "endpoint"):
            given = {name: value for name, value in environ.items() if name not in _FILES}
            body, warnings = request_body(arguments, given)
            assert not warnings
            options = body.get("options", {})
        assert Resolver(SETTINGS, environ={}).locate(uri, SourceOptions(**options)).origin


def table() -> str:
    """The table of deviations."""
    text = (ROOT / "docs/sources.md").read_text(encoding="utf-8")
    return text.partition("\n## Where cachd differs")[2]


def marked() -> set[str]:
    lines = [line for line in table().splitlines() if line.startswith("|")]
    return {id for line in lines for mark in _MARK.findall(line) for id in mark.split(", ")}


def test_the_table_of_deviations_has_all_that_the_conformance_tests_know() -> None:
    assert marked() == {row.id for row in ROWS if row.deviates}
