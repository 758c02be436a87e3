"""What KServe's storage initializer does with a URI and its environment, and what ``cachd pull``
does with them: one table.

The rows are KServe's own tests (python/storage/test), asked black-box: a real daemon, the real
command, real servers. Where a row deviates, ``deviates`` tells what KServe does; docs/sources.md
tells why.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.conformance import (
    table_gcs,
    table_git,
    table_hf,
    table_http,
    table_oci,
    table_registry,
    table_s3,
)
from tests.conformance.world import filled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.rows import Row
    from tests.conformance.world import World

TABLES = (table_http, table_s3, table_gcs, table_hf, table_oci, table_git, table_registry)
ROWS = tuple(row for table in TABLES for row in table.ROWS)
CASES = [(row, make) for row in ROWS for make in row.makes or ("",)]
COVERED = {*range(5, 45), *range(50, 56), 57, 58}


def test_every_row_is_there() -> None:
    assert {int(row.id[1:]) for row in ROWS} == COVERED


def name_of(row: Row, make: str) -> str:
    return "-".join([row.id, *re.findall(r"[a-z0-9]+", row.case.lower()), *make.split()])


@pytest.mark.parametrize(("row", "make"), CASES, ids=[name_of(*case) for case in CASES])
def test_row(row: Row, make: str, world: World, tmp_path: Path) -> None:
    names = given(row, make, world)
    environ = {k: filled(v, names) for k, v in row.env.items() if v is not None}
    destination = tmp_path / "models"

    outcome = world.pull(filled(row.uri, names), destination, environ)

    shown = f"exit {outcome.code}\n{outcome.stdout}\n{outcome.stderr}"
    if row.tree is not None:
        assert outcome.code == 0, shown
        assert outcome.tree == row.tree, shown
    else:
        assert outcome.code in row.fails, shown
        assert filled(row.says, names).lower() in outcome.stderr.lower(), shown
        assert outcome.tree == {}, shown
        assert not destination.exists()
    if row.check is not None:
        row.check(world, outcome)


def given(row: Row, make: str, world: World) -> dict[str, str]:
    """Put what the row needs where it belongs; the names that it may use."""
    names = world.names(make)
    for path, page in row.pages.items():
        world.web.pages[path] = page.at(names)
    for path, body in row.files.items():
        target = world.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
    objects = row.objects or {}
    if row.bucket and make:
        world.makes[make].make_bucket(objects, row.bucket)
    elif row.bucket:
        world.objects.buckets[row.bucket] = objects
    elif make:
        names["bucket"] = world.put(make, objects, own_bucket=row.own_bucket)
    return names
