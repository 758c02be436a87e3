"""``gs://`` under the contract."""

from tests.contract.rows import EveryRow


class TestGoogle(EveryRow):
    pass
