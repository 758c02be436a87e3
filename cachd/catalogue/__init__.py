"""Everything that Prometheus sees, declared once: names carry units, labels have a closed set of
values (never a URI or a key). ``docs/metrics.md`` is generated from it.
"""

from cachd.catalogue.holding import HOLDING
from cachd.catalogue.metric import OTHER, PHASES, Metric
from cachd.catalogue.working import WORKING

CATALOGUE: tuple[Metric, ...] = (*WORKING, *HOLDING)

__all__ = ["CATALOGUE", "OTHER", "PHASES", "Metric"]
