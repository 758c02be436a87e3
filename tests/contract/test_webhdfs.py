"""``webhdfs`` under the contract."""

from tests.contract.rows import EveryRow


class TestWebHdfs(EveryRow):
    pass
