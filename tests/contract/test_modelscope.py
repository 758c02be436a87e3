"""``modelscope://`` under the contract."""

from tests.contract.rows import EveryRow


class TestModelScope(EveryRow):
    pass
