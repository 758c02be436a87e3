"""``oci://`` under the contract."""

from tests.contract.rows import EveryRow


class TestOci(EveryRow):
    pass
