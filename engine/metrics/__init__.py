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

- Frames: ``frame`` makes one from arrays (``table_from_arrays`` stops at the table), ``evaluate`` and ``evaluate_models`` from a
  table. A ``Frame`` holds an ``Estimate`` for every score and a ``Disparity`` for every comparison of groups. ``to_json`` makes the
  document ``metrics.json``, ``to_csv`` a long table of it. ``select_value`` is the number that model selection ranks by.
- Tables: ``read_table`` and ``write_table`` are for our own Parquet files, ``reader`` with its ``Roles`` for a CSV or Parquet file
  from elsewhere, ``PredictionWriter`` for your own evaluation loop, ``mask_folders`` for two folders of masks. A ``Table`` has a
  ``Schema``; ``validate`` checks rows against it. ``thresholds`` sets the operating point, ``groupings`` makes the groups, and
  ``suppression`` says which small cells a shared report must hide.
- Metrics: ``names`` lists those of a task, ``get`` gives the entry of one (a ``Metric``: formula, range, direction, paper), ``compute``
  its value; ``register`` and ``register_family`` add your own. ``fairness`` holds the fairness scores that have a name,
  ``calibration`` and ``net_benefit`` the curves, ``segmentation`` the values of two masks.
- Comparisons: ``hypotheses`` tests whole families of groups, ``paired`` compares two models on the same people, ``methods`` compares
  methods over their training runs. ``intervals`` and ``comparisons`` work on single estimates, ``delong`` on two areas,
  ``mcnemar`` on the calls of two models, ``multiplicity`` on p values, and ``seeds`` on one quantity over runs.
- Confounders: ``gaps`` adjusts the gap between two groups for them, with the balancing methods of ``balance``.
- After training: ``recalibration`` of scores and ``parity`` of thresholds are chosen on one split and judged on another.
- Decisions: ``policy`` holds scores against bounds, ``acceptance`` tests claims such as equivalence, ``planning`` says how many
  patients a gap needs, ``selection`` chooses among models and checkpoints.

Each name is imported at its first use, so that importing this module takes no time.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
