"""All rows together."""

from __future__ import annotations

from tests.contract.rows_faults import Faults
from tests.contract.rows_moving import Moving
from tests.contract.rows_names import Names
from tests.contract.rows_passes import Passes
from tests.contract.rows_shape import Shape


class EveryRow(Shape, Names, Passes, Faults, Moving):
    """What a source's test class inherits."""
