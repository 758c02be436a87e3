"""Blobs at Azure under the contract."""

from tests.contract.rows import EveryRow


class TestAzure(EveryRow):
    pass
