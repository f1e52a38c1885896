"""Slow, obvious twins of what the engine computes fast; shared by the tests of all rooms."""

import math

# ---- metrics: intervals clustered by patient, written as the formulas read ----


def auroc_by_pairs(truth, score):
    """Share of (positive, negative) pairs in the right order, ties counting half."""
    pairs = [
        (p, q)
        for p, a in zip(score, truth, strict=True)
        if a
        for q, b in zip(score, truth, strict=True)
        if not b
    ]
    return sum((p > q) + 0.5 * (p == q) for p, q in pairs) / len(pairs)


def obuchowski_variance(truth, score, subject):
    """Obuchowski 1997, patient by patient, with placement values from explicit pairs."""
    rows = list(zip(truth, score, subject, strict=True))
    positives, negatives = [r for r in rows if r[0]], [r for r in rows if not r[0]]
    m, n, value = len(positives), len(negatives), auroc_by_pairs(truth, score)
    a, b = dict.fromkeys(subject, 0.0), dict.fromkeys(subject, 0.0)
    for _, s, who in positives:
        a[who] += sum((s > q) + 0.5 * (s == q) for _, q, _ in negatives) / n - value
    for _, s, who in negatives:
        b[who] += sum((p > s) + 0.5 * (p == s) for _, p, _ in positives) / m - value
    i10, i01, i = len({r[2] for r in positives}), len({r[2] for r in negatives}), len(set(subject))
    first = i10 / (i10 - 1) * sum(x * x for x in a.values()) / m**2
    second = i01 / (i01 - 1) * sum(x * x for x in b.values()) / n**2
    return first + second + 2 * i / (i - 1) * sum(a[k] * b[k] for k in a) / (m * n)


def clustered_wilson(success, subject, z):
    """Wilson limits at n / deff, the design effect from an explicit sum over patients."""
    n, p = len(success), sum(success) / len(success)
    groups = {}
    for x, who in zip(success, subject, strict=True):
        groups.setdefault(who, []).append(x)
    i, ceiling = len(groups), sum(len(g) ** 2 for g in groups.values()) / n
    deff = ceiling
    if 0 < p < 1 and i > 1:
        variance = i / (i - 1) * sum((sum(g) - p * len(g)) ** 2 for g in groups.values()) / n**2
        deff = min(max(variance / (p * (1 - p) / n), 1), ceiling)
    e = n / deff
    # The limits solve (p - x)^2 = z^2 x (1 - x) / e, a quadratic in x.
    qa, qb, qc = 1 + z * z / e, -(2 * p + z * z / e), p * p
    root = math.sqrt(max(qb * qb - 4 * qa * qc, 0))
    return (-qb - root) / (2 * qa), (-qb + root) / (2 * qa)
