"""``hf://`` under the contract."""

from tests.contract.rows import EveryRow


class TestHf(EveryRow):
    pass
