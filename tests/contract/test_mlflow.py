"""``mlflow://`` and what its artifact proxy has under the contract."""

from tests.contract.rows import EveryRow


class TestMlflow(EveryRow):
    pass
