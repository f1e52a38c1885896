"""P values adjusted for their number. NaN stays NaN and is not counted.

Holm and max-T bound the chance of any false claim; Benjamini and Hochberg bound the expected share of false claims among all claims.
An intersection-union test ("every group passes", :mod:`equipoise.engine.metrics.decisions.acceptance`) needs no adjustment.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

_EQUAL = 1e-9  # statistics that differ by less than this share are equal but for rounding


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts by step-down Bonferroni (Holm, Scand J Stat 1979;6:65): bounds the family-wise error under any dependence."""
    p = np.asarray(p, np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted.tolist()


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusts step-up (Benjamini and Hochberg, J R Stat Soc B 1995;57:289).

    This bounds the false discovery rate of independent or positively dependent tests.
    """
    p = np.asarray(p, np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(-p[known], kind="stable")]
    factors = len(order) / (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1, np.minimum.accumulate(p[order] * factors))
    return adjusted.tolist()


def with_adjusted(
    tests: Mapping[Hashable, Any], adjust: Callable[[Sequence[float]], Sequence[float]] = holm
) -> dict[Hashable, Any]:
    """Returns the same tests with ``p_adjusted`` set, all of them being one family.

    Args:
      tests: name -> test, a dataclass with the fields ``p`` and ``p_adjusted``.
      adjust: :func:`holm` or :func:`benjamini_hochberg`.
    """
    adjusted = adjust([test.p for test in tests.values()])
    return {
        name: dataclasses.replace(test, p_adjusted=float(p))
        for (name, test), p in zip(tests.items(), adjusted, strict=True)
    }


def reached(observed: Float[np.ndarray, "#m"], permuted: Float[np.ndarray, "m b"]) -> Float[np.ndarray, " m"]:
    """Returns the p values (1 + number of permutations with a statistic as large as observed) / (1 + number of permutations).

    Only permutations in which the statistic exists count. The observed one has a value, so that the test stays exact among
    those that have.

    Args:
      observed: m statistics; NaN where undefined.
      permuted: the same statistics under b permutations; NaN where undefined.

    Returns:
      [m] p values; NaN where nothing was observed.
    """
    valid = (~np.isnan(permuted)).sum(axis=1)
    hits = (permuted >= observed[:, None] * (1 - _EQUAL)).sum(axis=1)
    return np.where(np.isnan(observed), np.nan, (1 + hits) / (1 + valid))


def max_t(
    observed: Float[np.ndarray, " m"], permuted: Float[np.ndarray, "m b"], *, step_down: bool = True
) -> list[float]:
    """Adjusts by the joint permutations of several statistics (Westfall and Young, Resampling-Based Multiple Testing, 1993).

    In the single-step form each statistic is compared with the largest of all. In the step-down form (algorithm 4.1) it is
    compared with the largest of those that are no larger than itself, which never gives a larger p. Statistics that rise and
    fall together lose less in this way than by Holm's adjustment.

    Args:
      observed: m statistics, whose signs do not count; NaN where undefined.
      permuted: the same statistics under b permutations, side by side; NaN where undefined.
      step_down: whether a statistic drops out of the maximum once it has been judged.

    Returns:
      [m] adjusted p values, each at least 1 / (b + 1).
    """
    size, ceiling = np.abs(observed), np.abs(permuted)
    adjusted = np.full(len(size), np.nan)
    known = np.flatnonzero(~np.isnan(size))
    order = known[np.argsort(-size[known], kind="stable")]
    # Row i is the largest of statistic i and all smaller ones; fmax ignores statistics that a permutation leaves undefined.
    maxima = np.fmax.accumulate(ceiling[order][::-1])[::-1]
    if not step_down:
        maxima = np.broadcast_to(maxima[:1], maxima.shape)
    adjusted[order] = np.maximum.accumulate(reached(size[order], maxima))
    return adjusted.tolist()
