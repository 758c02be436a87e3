"""``model-registry://`` under the contract."""

from tests.contract.rows import EveryRow


class TestKubeflow(EveryRow):
    pass
