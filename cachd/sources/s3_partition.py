"""The partitions of AWS: separate worlds in which one bucket name means different buckets. Pure.

``https://s3.amazonaws.com`` alone doesn't say which: SDKs take it from the region. Source of the
shapes: ``partitions.json`` in botocore (``regionRegex`` of each partition).
"""

from __future__ import annotations

import re

from cachd.errors import UriInvalid

AWS = "aws"

_SHAPES = (
    ("aws-cn", re.compile(r"cn-[a-z]+-\d{1,2}")),
    ("aws-us-gov", re.compile(r"us-gov-[a-z]+-\d{1,2}")),
    ("aws-iso", re.compile(r"us-iso-[a-z]+-\d{1,2}")),
    ("aws-iso-b", re.compile(r"us-isob-[a-z]+-\d{1,2}")),
    ("aws-iso-e", re.compile(r"eu-isoe-[a-z]+-\d{1,2}")),
    ("aws-iso-f", re.compile(r"us-isof-[a-z]+-\d{1,2}")),
    ("aws-eusc", re.compile(r"eusc-[a-z]{2}-[a-z]+-\d{1,2}")),
    (AWS, re.compile(r"[a-z]{2}-[a-z]+-\d{1,2}|aws-global")),
)


def find_partition(region: str) -> str | None:
    """The partition of ``region``; None for a name that AWS has no regions of."""
    for name, shape in _SHAPES:
        if shape.fullmatch(region):
            return name
    return None


def partition_of(region: str, field: str) -> str:
    """The partition of ``region``. Raises UriInvalid, naming ``field``, for an unknown shape."""
    found = find_partition(region)
    if found is None:
        raise UriInvalid(
            f"{region[:64]!r} is no region of AWS",
            field=field,
            hint="a region of AWS looks like eu-west-1; for another store name its endpoint",
        )
    return found
