"""``s3://`` under the contract."""

from tests.contract.rows import EveryRow


class TestS3(EveryRow):
    pass
