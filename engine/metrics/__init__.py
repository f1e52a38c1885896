"""Fairness metrics with intervals that hold: any metric, overall and in every group, and the gaps between groups.

From arrays::

    from equipoise.engine import metrics

    result = metrics.frame(truth, score, groups={"sex": sex, "site": site}, subject=patient)
    result.overall["auroc"]  # 0.912 (0.894 to 0.927), n=1200
    result.groups["sex"]["F"]["sensitivity"].limits(0.95)
    result.disparities["sex"]["difference:sensitivity:M-F"].p_adjusted
    result.to_pandas()  # one number a line; in a notebook the frame shows itself

The unit is the patient: images of one patient agree with each other, and every interval allows for that.

The vocabulary:

- Frames: :func:`frame` from arrays (:func:`table_from_arrays` stops at the table), :func:`evaluate` and :func:`evaluate_models` from a
  table, to a :class:`Frame` of
  :class:`Estimate` and :class:`Disparity`; :func:`to_json` for ``metrics.json``; :func:`select_value` for model selection.
- Tables: :func:`read_table` and :func:`write_table` for our own Parquet files, :mod:`reader` with its :class:`Roles` for a CSV or
  Parquet file from elsewhere, :class:`PredictionWriter` to write one from your own loop, :mod:`mask_folders` for two folders of
  masks; a :class:`Table` has a :class:`Schema`, and :func:`validate` checks both. :mod:`thresholds` sets the operating point,
  :mod:`groupings` the groups, and :mod:`suppression` says which small cells a shared report must hide.
- Metrics: :func:`names` lists those of a task, :func:`get` gives the entry (a :class:`Metric`: formula, range, direction, paper),
  :func:`compute` one value; :func:`register` and :func:`register_family` add your own. :mod:`fairness` holds the fairness scores
  that have a name; :mod:`calibration` and :mod:`net_benefit` the curves; :mod:`segmentation` what is measured of two masks.
- Comparisons: :mod:`hypotheses` tests whole families of groups, :mod:`paired` two models on the same people, :mod:`methods` methods
  over their training runs; :mod:`comparisons` and :mod:`intervals` work on single estimates, :mod:`multiplicity` on p values,
  :mod:`seeds` on one quantity over runs.
- Confounders: :mod:`gaps` adjusts the gap between two groups for them, with the weights of :mod:`balance`.
- After training: :mod:`recalibration` of scores and :mod:`parity` of thresholds, chosen on one split and judged on another.
- Decisions: :mod:`policy` holds scores against bounds, :mod:`acceptance` tests claims such as equivalence, :mod:`planning` says how
  many patients a gap needs, :mod:`selection` chooses among models and checkpoints.

Each name is imported at its first use, so that importing this module takes no time.
"""

import importlib
import importlib.util
from typing import Any

import lazy_loader

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_PACKAGES = ("comparing", "confounding", "decisions", "estimates", "formulas", "postprocessing", "table")


def __getattr__(name: str) -> Any:
    """A name of the vocabulary, imported at its first use."""
    if name in __all__:
        for package in _PACKAGES:  # a module of an inner package is no attribute of it before it is imported
            module = f"{__name__}.{package}.{name}"
            if importlib.util.find_spec(module):
                return importlib.import_module(module)
    return _attribute(name)
