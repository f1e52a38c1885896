"""Numbers with their limits: intervals of one quantity, comparisons of two or more, and tests adjusted for their number.

Everything here is plain statistics on arrays and :class:`equipoise.engine.metrics.estimates.intervals.Estimate`. It knows no
metric, no table and no group by name, and imports nothing else of :mod:`equipoise.engine.metrics`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "chance",
        "comparisons",
        "delong",
        "intervals",
        "logistic",
        "mcnemar",
        "multiplicity",
        "percentiles",
        "seeds",
    ],
)
