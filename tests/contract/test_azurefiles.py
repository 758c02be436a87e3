"""Files at Azure under the contract, where they differ from blobs: changes that no precondition
tells, and passes. What they mean is in ``tests/sources/test_azure.py`` and ``tests/conformance``.
"""

from tests.contract.rows_moving import Moving
from tests.contract.rows_passes import Passes


class TestAzureFiles(Moving, Passes):
    pass
