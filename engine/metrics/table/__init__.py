"""The prediction table, with one row per image: how it is checked, read from other files, written, grouped and made shareable.

The table stands between the models and the statistics. It imports :mod:`equipoise.engine.metrics.estimates` and
:mod:`equipoise.engine.metrics.formulas` at most, and never a frame.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "file",
        "groupings",
        "mask_folders",
        "reader",
        "suppression",
        "table",
        "thresholds",
        "writer",
    ],
)
