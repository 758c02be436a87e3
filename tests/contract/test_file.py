"""``file://`` under the contract."""

from tests.contract.rows import EveryRow


class TestFile(EveryRow):
    pass
