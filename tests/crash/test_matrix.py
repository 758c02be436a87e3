"""kill -9 of the real daemon at named steps: every second quick one here, all of them by
make test-slow and in docs/crash-matrix.md."""

from __future__ import annotations

import pytest

from tests.crash import matrix
from tests.crash.running import run
from tests.crash.scenarios import Case


@pytest.mark.parametrize("case", matrix.quick()[::2], ids=lambda case: case.id)
def test_a_crash_loses_nothing_and_leaves_nothing_behind(case: Case) -> None:
    assert run(case).problem == ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_line_of_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    code = matrix.main(["--check"])
    assert code == 0, capsys.readouterr().out
