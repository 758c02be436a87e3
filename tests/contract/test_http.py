"""``https://`` under the contract."""

from tests.contract.rows import EveryRow


class TestHttp(EveryRow):
    pass
