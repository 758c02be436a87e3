"""``git`` under the contract."""

from tests.contract.rows import EveryRow


class TestGit(EveryRow):
    pass
