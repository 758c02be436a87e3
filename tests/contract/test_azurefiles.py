"""Files at Azure under the contract."""

from tests.contract.rows import EveryRow


class TestAzureFiles(EveryRow):
    pass
