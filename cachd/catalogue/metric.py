"""What is declared of a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OTHER = "other"
"""The label value for what nobody foresaw, so that the number of series stays bounded."""

PHASES = frozenset({"resolve", "probe", "queue", "upstream", "fetch", "verify", "publish", "total"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the catalogue.

    ``gauge`` is the name in ``usage()`` that a gauge of the store is read from at scrape; one with
    a dot is read from each of a mapping's values, whose names are its label's.
    ``values`` lists what its labels can be, in words.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    values: str = ""
    buckets: tuple[float, ...] = ()
    gauge: str = ""
