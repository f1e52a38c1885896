"""P values adjusted for their number; NaN stays NaN and is not counted.

Holm and max-T hold the chance of any false claim, Benjamini and Hochberg the expected share of false claims among all. An
intersection-union test ("every group passes", :mod:`equipoise.engine.metrics.decisions.acceptance`) needs none.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

_EQUAL = 1e-9  # relative: statistics that differ by rounding alone are equal


def holm(p: Sequence[float]) -> list[float]:
    """Step-down Bonferroni (Holm, Scand J Stat 1979;6:65): the family-wise error, under any dependence."""
    p = np.asarray(p, np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted.tolist()


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Step-up (Benjamini and Hochberg, J R Stat Soc B 1995;57:289): the false discovery rate, of independent or positively dependent tests."""
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
    """The same tests with ``p_adjusted`` set, all of them being one family.

    Args:
      tests: name -> dataclass with the fields ``p`` and ``p_adjusted``.
      adjust: :func:`holm` or :func:`benjamini_hochberg`.
    """
    adjusted = adjust([test.p for test in tests.values()])
    return {
        name: dataclasses.replace(test, p_adjusted=float(p))
        for (name, test), p in zip(tests.items(), adjusted, strict=True)
    }


def reached(observed: Float[np.ndarray, "#m"], permuted: Float[np.ndarray, "m b"]) -> Float[np.ndarray, " m"]:
    """The p values (1 + permutations as large as what was observed) / (permutations + 1), of those in which the statistic exists.

    Permutations without a value are no part of the group that is permuted over (the observed one has a value), so that the test
    stays exact. NaN where nothing was observed.
    """
    valid = (~np.isnan(permuted)).sum(axis=1)
    hits = (permuted >= observed[:, None] * (1 - _EQUAL)).sum(axis=1)
    return np.where(np.isnan(observed), np.nan, (1 + hits) / (1 + valid))


def max_t(
    observed: Float[np.ndarray, " m"], permuted: Float[np.ndarray, "m b"], *, step_down: bool = True
) -> list[float]:
    """P values of several statistics from their joint permutations (Westfall and Young, Resampling-Based Multiple Testing, 1993).

    A statistic is compared with the largest of all (single-step), or of those no larger than itself (step-down, algorithm 4.1: never
    a larger p). Statistics that rise and fall together thus cost less than Holm takes.

    Args:
      observed: statistics; the sign does not count.
      permuted: the same statistics under each permutation, permutations side by side; NaN where undefined.
      step_down: whether each statistic drops out of the maximum once judged.

    Returns:
      Adjusted p values, at least 1 / (b + 1).
    """
    size, ceiling = np.abs(observed), np.abs(permuted)
    adjusted = np.full(len(size), np.nan)
    known = np.flatnonzero(~np.isnan(size))
    order = known[np.argsort(-size[known], kind="stable")]
    # The largest of a statistic and of all smaller ones; fmax passes over those that a permutation leaves undefined.
    maxima = np.fmax.accumulate(ceiling[order][::-1])[::-1]
    if not step_down:
        maxima = np.broadcast_to(maxima[:1], maxima.shape)
    adjusted[order] = np.maximum.accumulate(reached(size[order], maxima))
    return adjusted.tolist()
