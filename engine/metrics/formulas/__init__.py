"""Formulas: what each metric is, and how its value is computed from rows or from sums of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "calibration",
        "classification",
        "fairness",
        "inequality",
        "metric",
        "multiclass",
        "net_benefit",
        "registry",
        "regression",
        "segmentation",
    ],
)
