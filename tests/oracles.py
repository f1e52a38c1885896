"""Slow and obvious twins of what the engine computes fast, for the tests of all packages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import stats

# ---- metrics: intervals clustered by patient, written as the formulas read ----


def auroc_by_pairs(truth, score):
    """Returns the share of (positive, negative) pairs that are in the right order; ties count half."""
    pairs = [
        (p, q)
        for p, a in zip(score, truth, strict=True)
        if a
        for q, b in zip(score, truth, strict=True)
        if not b
    ]
    return sum((p > q) + 0.5 * (p == q) for p, q in pairs) / len(pairs)


def obuchowski_variance(truth, score, subject):
    """Returns Obuchowski's variance (1997), patient by patient, with placement values from explicit pairs."""
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
    """Returns Wilson limits at n / deff, widened from z to t of the number of patients.

    The design effect comes from an explicit sum over patients.
    """
    n, p = len(success), sum(success) / len(success)
    groups = {}
    for x, who in zip(success, subject, strict=True):
        groups.setdefault(who, []).append(x)
    i, ceiling = len(groups), sum(len(g) ** 2 for g in groups.values()) / n
    deff = ceiling
    if 0 < p < 1 and i > 1:
        variance = i / (i - 1) * sum((sum(g) - p * len(g)) ** 2 for g in groups.values()) / n**2
        deff = min(max(variance / (p * (1 - p) / n), 1), ceiling)
    t = stats.t.ppf(stats.norm.cdf(z), i - 1)
    e = max(n / deff * (z / t) ** 2, n / ceiling)
    # The limits solve (p - x)^2 = z^2 x (1 - x) / e, a quadratic in x.
    qa, qb, qc = 1 + z * z / e, -(2 * p + z * z / e), p * p
    root = math.sqrt(max(qb * qb - 4 * qa * qc, 0))
    return (-qb - root) / (2 * qa), (-qb + root) / (2 * qa)


def bootstrap(statistic, columns, subject, counts):
    """Returns a statistic of rows that are repeated as often as their patient was drawn; NaN where no row is left."""
    values = []
    for drawn in counts.T:
        rows = [i for i, who in enumerate(subject) for _ in range(drawn[who])]
        taken = {name: column[rows] for name, column in columns.items()}
        values.append(statistic(taken) if rows else math.nan)
    return values


def auroc_by_ranks(truth, score):
    """Returns the AUROC by the Mann-Whitney statistic from mid-ranks."""
    ranks = stats.rankdata(score)
    m, n = truth.sum(), (~truth).sum()
    return (ranks[truth].sum() - m * (m + 1) / 2) / (m * n)


def simulated_patients(rng, patients, sensitivities, sizes=(0.4, 0.25, 0.15, 0.1, 0.06, 0.04)):
    """Draws (called, score, truth, code, group) of patients with one to four images that agree with each other.

    The groups have the given shares of patients and sensitivities; the AUROC is Φ(1.5 / √2) in every group.
    """
    images = rng.integers(1, 5, patients)
    code = np.repeat(np.arange(patients), images)
    group = rng.choice(len(sizes), patients, p=sizes)[code]
    truth = (rng.random(patients) < 0.4)[code]
    lean = 0.6 * rng.normal(size=patients)[code] + 0.8 * rng.normal(size=len(code))
    return truth & (lean < stats.norm.ppf(sensitivities)[group]), lean + 1.5 * truth, truth, code, group


# ---- metrics: calibration and surfaces, written as the formulas read ----


def binned_gaps(truth, score, bins):
    """Returns (n, mean score, share positive) of bins of equal mass; the share of rows that score less gives a row's bin."""
    members = {}
    for y, s in zip(truth, score, strict=True):
        members.setdefault(sum(o < s for o in score) * bins // len(score), []).append((y, s))
    return [(len(m), sum(s for _, s in m) / len(m), sum(y for y, _ in m) / len(m)) for m in members.values()]


def surface_voxels(mask):
    """Returns the voxels of a mask that have a neighbour across a face outside the mask or outside the image."""
    voxels = []
    for place in zip(*np.nonzero(mask), strict=True):
        around = [
            tuple(p + (side if axis == k else 0) for k, p in enumerate(place))
            for axis in range(mask.ndim)
            for side in (-1, 1)
        ]
        if any(
            min(q) < 0 or any(a >= n for a, n in zip(q, mask.shape, strict=True)) or not mask[q]
            for q in around
        ):
            voxels.append(place)
    return voxels


def directed_distances(mask, other, spacing):
    """Returns the sorted distances from each surface voxel of a mask to the nearest one of another, from all pairs."""
    lengths = np.asarray(spacing)
    ends = [np.array(q) * lengths for q in surface_voxels(other)]
    return sorted(min(np.linalg.norm(np.array(p) * lengths - q) for q in ends) for p in surface_voxels(mask))


def inequality(truth, called):
    """Returns (generalised entropy of order 2, Theil index) of the benefits 1 + call - truth, person by person."""
    benefits = [1 + int(c) - int(t) for t, c in zip(truth, called, strict=True)]
    n, mean = len(benefits), sum(benefits) / len(benefits)
    entropy = sum((b / mean) ** 2 - 1 for b in benefits) / (n * 2 * (2 - 1))
    return entropy, sum(b / mean * math.log(b / mean) for b in benefits if b) / n


# ---- the generative model of planted biases, drawn and judged by Bayes' rule ----


def biased_subjects(rng, n, shares, prevalence=0.5):
    """Draws subjects with a disease score d ~ N(±1, 1) and a level of each bias.

    Args:
      rng: generator of random numbers.
      n: number of subjects.
      shares: bias -> (share with it among the sick, share with it among the healthy).
      prevalence: share of the sick.
    """
    sick = rng.random(n) < prevalence
    levels = {
        a: np.where(rng.random(n) < np.where(sick, *pair), "with", "without") for a, pair in shares.items()
    }
    return pd.DataFrame(
        {"target": sick.astype(int), "disease_score": rng.normal(np.where(sick, 1, -1)), **levels}
    )


def disease_posterior(subjects, shares, prevalence=0.5, uses=()):
    """Returns P(disease | d and the biases in ``uses``), from the densities of the two classes."""
    joint = []
    for place, (mean, prior) in enumerate(((1, prevalence), (-1, 1 - prevalence))):
        density = prior * stats.norm.pdf(subjects["disease_score"], mean)
        for a in uses:
            share = shares[a][place]
            density = density * np.where(subjects[a] == "with", share, 1 - share)
        joint.append(density)
    return joint[0] / (joint[0] + joint[1])


# ---- regions of a saliency map ----


def region_scores(saliency, labels, cut):
    """Returns label -> (share, mean, relative, weighted), voxel by voxel; every region must keep a voxel."""
    low, high = saliency.min(), saliency.max()
    members = {}
    for place, label in np.ndenumerate(labels):
        if label:
            members.setdefault(int(label), []).append((saliency[place] - low) / (high - low))
    kept = {label: [s for s in values if s >= cut] for label, values in members.items()}
    means = {label: sum(values) / len(values) for label, values in kept.items()}
    scores = {}
    for label, values in members.items():
        share = len(kept[label]) / len(values)
        relative = (means[label] - min(means.values())) / (max(means.values()) - min(means.values()))
        scores[label] = (share, means[label], relative, share * relative)
    return scores


# ---- learning across sites: ``tests.tiny_network`` without dropout, trained by plain loops ----


def on_host(function):
    """Compiles a function whose results come back as NumPy arrays, whose plain arithmetic is quick."""
    compiled = jax.jit(function)
    return lambda *values: jax.device_get(compiled(*values))


def affine_norm_head(params, running, x):
    """Returns (logits, normalised features, new running statistics) of a batch in training."""
    hidden = x.reshape(len(x), -1) @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    mean, var = hidden.mean(0), hidden.var(0)
    norm, old = params["norm"], running["norm"]
    feature = (hidden - mean) / jnp.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
    new = {"norm": {"mean": 0.9 * old["mean"] + 0.1 * mean, "var": 0.9 * old["var"] + 0.1 * var}}
    return feature @ params["head"]["kernel"] + params["head"]["bias"], feature, new


def without_bias(grads):
    """Sets the gradient of the bias before the normalisation to 0, its exact value; arithmetic gives rounding noise."""
    return grads | {"hidden": grads["hidden"] | {"bias": jnp.zeros_like(grads["hidden"]["bias"])}}


def cross_entropy(logits, target):
    """Returns the mean cross-entropy of a batch."""
    return -jax.nn.log_softmax(logits)[jnp.arange(len(target)), target].mean()


@on_host
def task_gradient(params, running, x, target):
    """Returns (gradient, new running statistics) of the mean cross-entropy."""

    def loss(params):
        logits, _, new = affine_norm_head(params, running, x)
        return cross_entropy(logits, target), new

    grads, new = jax.grad(loss, has_aux=True)(params)
    return without_bias(grads), new


@on_host
def recognition_gradient(head, params, running, x, group):
    """Returns the gradient of a group head's cross-entropy in the head."""
    feature = affine_norm_head(params, running, x)[1]
    return jax.grad(lambda head: cross_entropy(feature @ head["kernel"] + head["bias"], group))(head)


@on_host
def confusion_gradient(params, head, running, x):
    """Returns the gradient of the mean of ``-sum_k log p_k / K`` in the network."""

    def loss(params):
        feature = affine_norm_head(params, running, x)[1]
        return -jax.nn.log_softmax(feature @ head["kernel"] + head["bias"]).mean()

    return without_bias(jax.grad(loss)(params))


class Momentum:
    """Heavy-ball descent."""

    def __init__(self):
        self.velocity = None

    def step(self, params, grads, rate):
        self.velocity = jax.tree.map(
            lambda g, v: 0.9 * v + g, grads, self.velocity or jax.tree.map(np.zeros_like, grads)
        )
        return jax.tree.map(lambda p, v: p - rate * v, params, self.velocity)


def visit(rows, size, epochs, seed, cycle, site):
    """Yields the batches of a visit: every epoch has an order of its own, and its last batch has the images that are left."""
    for epoch in range(epochs):
        order = np.random.default_rng((seed, 1, cycle, epoch, site)).permutation(rows)
        for first in range(0, len(order), size):
            yield order[first : first + size]


def journey(num_sites, seed, cycle):
    """Returns the order in which a cycle visits the sites."""
    return np.random.default_rng((seed, 0, cycle)).permutation(num_sites)


def federated_averaging(
    network, data, sites, *, rounds, shares, size, epochs, seed, rate, mu=0.0, squared=True
):
    """Yields the network after every round of ``w <- sum_k a_k LocalTrain(w, k)`` over ``sites`` (number -> rows)."""
    x, target = data
    for cycle in range(rounds):
        total = jax.tree.map(np.zeros_like, network)
        for site, rows in sites.items():
            (params, running), optimizer = network, Momentum()
            for batch in visit(rows, size, epochs, seed, cycle, site):
                grads, running = task_gradient(params, running, x[batch], target[batch])
                away = jax.tree.map(lambda w, g: w - g, params, network[0])
                if not squared:
                    away = jax.tree.map(lambda d: d / max(np.sqrt((d * d).sum()), 1e-6), away)
                grads = jax.tree.map(lambda g, d: g + mu * d, grads, away)
                params = optimizer.step(params, grads, rate(cycle))
            total = jax.tree.map(lambda t, w, a=shares[site]: t + a * w, total, (params, running))
        network = total
        yield network


def travelling(network, data, sites, *, cycles, size, epochs, seed, rate, order, first=0):
    """Yields the network after every cycle of ``w <- LocalTrain(w, k)``, site after site, with one optimizer."""
    x, target = data
    (params, running), optimizer = network, Momentum()
    for cycle in range(first, first + cycles):
        for site in order(cycle):
            for batch in visit(sites[site], size, epochs, seed, cycle, site):
                grads, running = task_gradient(params, running, x[batch], target[batch])
                params = optimizer.step(params, grads, rate(cycle))
        yield params, running


def harmonising(network, head, data, group, sites, *, cycles, size, epochs, seed, rate, order, alpha, beta):
    """Yields (network, head) of a travelling model after every cycle; ``cycles`` has those of model, head and unlearning."""
    x, target = data
    (params, running), (task, recognition, confusion) = network, (Momentum(), Momentum(), Momentum())
    for cycle in range(sum(cycles)):
        kind = int(np.searchsorted(np.cumsum(cycles), cycle, side="right"))
        for site in order(cycle):
            for batch in visit(sites[site], size, epochs, seed, cycle, site):
                if kind != 1:
                    grads, running = task_gradient(params, running, x[batch], target[batch])
                    params = task.step(params, grads, rate(cycle))
                if kind >= 1:
                    grads = recognition_gradient(head, params, running, x[batch], group[batch])
                    head = recognition.step(head, jax.tree.map(lambda g: alpha * g, grads), rate(cycle))
                if kind == 2:
                    grads = confusion_gradient(params, head, running, x[batch])
                    params = confusion.step(params, jax.tree.map(lambda g: beta * g, grads), rate(cycle))
        yield (params, running), head
