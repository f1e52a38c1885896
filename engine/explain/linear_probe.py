"""What a model's features tell of a label: linear probes of every block, judged on people they were not fitted to.

A probe is a logistic regression on the principal components of a block's activations. Everything is computed from the [n, n]
products of the images' activations, so that a block of a million values costs one pass over its file. Probes are cross-validated
by patient; scored on their own images (``in_sample``, as published studies do) they flatter themselves, the more
components they have.

A probe can also learn from chance: a control repeats it with the labels of whole patients shuffled (Hewitt and Liang,
EMNLP-IJCNLP 2019:2733). What it reaches beyond its control is in the features.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int, Shaped

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.estimates.intervals import Estimate

_COLUMNS = 1 << 16  # of activations read together
_NEGLIGIBLE = 1e-10  # of the largest eigenvalue
MOST_COMPONENTS = 10  # that are probed one by one


def gram(features: Float[np.ndarray, "n values"]) -> Float[np.ndarray, "n n"]:
    """Products of the images' activations, in float64, one block of columns at a time; centred over the images."""
    total = np.zeros((len(features), len(features)))
    for start in range(0, features.shape[1], _COLUMNS):
        part = np.asarray(features[:, start : start + _COLUMNS], np.float64)
        part -= part.mean(axis=0)
        total += part @ part.T
    return total


@dataclasses.dataclass(frozen=True)
class FittedComponents:
    """Principal components fitted on some images, from the products of all.

    Attributes:
      fitted: scores of the images they were fitted on.
      others: scores of the other images.
      shares: of the variance, of each component.
    """

    fitted: Float[np.ndarray, "fitted k"]
    others: Float[np.ndarray, "others k"]
    shares: Float[np.ndarray, " k"]


def components(
    products: Float[np.ndarray, "n n"],
    fitted: Int[np.ndarray, " fitted"],
    others: Int[np.ndarray, " others"],
    share: float = 0.99,
) -> FittedComponents:
    """The leading components that hold ``share`` of the variance of the fitted images.

    With K the centred products of the fitted images, K = U diag(λ) Uᵀ: their scores are U √λ, and those of other images their
    centred products with the fitted ones, times U / √λ.

    Args:
      products: from :func:`gram`.
      fitted: numbers of the images to fit on.
      others: numbers of the images to project.
      share: of the variance to keep.

    Returns:
      The components, none where the images are all alike.
    """
    inner = products[np.ix_(fitted, fitted)]
    cross = products[np.ix_(others, fitted)]
    mean = inner.mean(axis=0)
    inner_centred = inner - mean - mean[:, None] + mean.mean()
    cross_centred = cross - cross.mean(axis=1, keepdims=True) - mean + mean.mean()
    values, vectors = scipy.linalg.eigh(inner_centred)
    values, vectors = values[::-1], vectors[:, ::-1]
    real = values > max(values[0], 0) * _NEGLIGIBLE
    shares = values / max(values[real].sum(), np.finfo(float).tiny)
    count = min(int(np.searchsorted(np.cumsum(shares[real]), share - 1e-12)) + 1, int(real.sum()))
    values, vectors = values[:count], vectors[:, :count]
    signs = np.sign(vectors[abs(vectors).argmax(axis=0), np.arange(count)])
    vectors = vectors * signs
    return FittedComponents(
        vectors * np.sqrt(values), cross_centred @ (vectors / np.sqrt(values)), shares[:count]
    )


def _regression():
    """The probe: an L2-penalised logistic regression with scikit-learn's defaults.

    Raises:
      UserError: where scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError:
        raise UserError("probes need scikit-learn: pip install 'equipoise[classical]'") from None
    return LogisticRegression(max_iter=1000, random_state=0)


def folds(
    labels: Mapping[str, Int[np.ndarray, " n"]], code: Int[np.ndarray, " n"], count: int, seed: int = 0
) -> list[tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " held"]]]:
    """Cross-validation folds that never part a patient's images, balanced over all labels at once.

    Args:
      labels: name -> class of each image.
      code: patient of each image.
      count: of folds.
      seed: of the shuffle.

    Returns:
      (numbers of the images to fit on, numbers of those held out) of each fold.

    Raises:
      UserError: when there are fewer patients than folds.
    """
    _regression()
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(code)) < count:
        raise UserError(f"{len(np.unique(code))} patients cannot be parted into {count} folds")
    joint = np.unique(np.stack(list(labels.values())), axis=1, return_inverse=True)[1].ravel()
    fewest = np.bincount(joint).min()
    if fewest < count:  # too rare to be in every fold: the first label alone decides
        joint = next(iter(labels.values()))
    split = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(split.split(np.zeros(len(code)), joint, code))


def shuffled(
    labels: Shaped[np.ndarray, " n"], code: Int[np.ndarray, " n"], generator: np.random.Generator
) -> Shaped[np.ndarray, " n"]:
    """Labels of whole patients, exchanged among patients with as many images; nobody gets a mixture."""
    order = np.argsort(code, kind="stable")
    counts = np.bincount(code)
    starts = np.cumsum(counts) - counts
    drawn = np.array(labels)
    for size in np.unique(counts[counts > 0]):
        places = order[starts[counts == size][:, None] + np.arange(size)]
        drawn[places] = labels[places[generator.permutation(len(places))]]
    return drawn


@dataclasses.dataclass(frozen=True)
class Probe:
    """How well one block tells one label.

    Attributes:
      block: of the network.
      label: name.
      classes: how many.
      num_components: of each fold, on average.
      accuracy: share of images told rightly, by patients the probe was not fitted to, clustered by patient.
      auroc: of two classes; None of more.
      in_sample: accuracy on the images it was fitted to, with all of them.
      chance: accuracy of always saying the commonest class.
      control: accuracies with shuffled labels.
    """

    block: str
    label: str
    classes: int
    num_components: float
    accuracy: Estimate
    auroc: Estimate | None
    in_sample: float
    chance: float
    control: Float[np.ndarray, " repeats"]

    @property
    def selectivity(self) -> float:
        """Accuracy minus the mean accuracy of the control task; NaN without a control."""
        return self.accuracy.value - float(self.control.mean()) if len(self.control) else float("nan")


@dataclasses.dataclass(frozen=True)
class Alone:
    """How well each principal component alone tells each label, cross-validated.

    Attributes:
      block: of the network.
      shares: of the variance, of each component.
      accuracy: label -> accuracy of each component.
      scores: [n, k] of every image.
      dominant: the component that tells the first label best.
      boundary: score of that component at which the first label's probe changes its mind; NaN where it never does.
    """

    block: str
    shares: Float[np.ndarray, " k"]
    accuracy: dict[str, Float[np.ndarray, " k"]]
    scores: Float[np.ndarray, "n k"]
    dominant: int
    boundary: float


def _held_out(
    parts: Sequence[FittedComponents], where: Sequence[tuple[np.ndarray, np.ndarray]], labels: np.ndarray
) -> Float[np.ndarray, "n classes"]:
    """Probability of each class for every image, from the probe that did not see its patient."""
    classes = np.unique(labels)
    found = np.zeros((len(labels), len(classes)))
    for part, (fitted, held) in zip(parts, where, strict=True):
        seen = np.unique(labels[fitted])
        if len(seen) < 2 or not part.fitted.shape[1]:  # nothing to learn: the commonest class
            found[held, np.searchsorted(classes, np.bincount(labels[fitted]).argmax())] = 1
            continue
        model = _regression().fit(part.fitted, labels[fitted])
        found[np.ix_(held, np.searchsorted(classes, model.classes_))] = model.predict_proba(part.others)
    return found


def _right(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.unique(labels)[probability.argmax(axis=1)] == labels


def probe_block(
    block: str,
    features: Float[np.ndarray, "n values"],
    labels: Mapping[str, Int[np.ndarray, " n"]],
    code: Int[np.ndarray, " n"],
    where: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    share: float = 0.99,
    repeats: int = 20,
    seed: int = 0,
) -> tuple[list[Probe], Alone]:
    """Probes every label in one block.

    Args:
      block: its name.
      features: activations, may be memory-mapped.
      labels: name -> class of each image, -1 where unknown: such an image is left out of that label's probe.
      code: patient of each image.
      where: folds, from :func:`folds`.
      share: of the variance that the components keep.
      repeats: of the control task.
      seed: of its shuffles.

    Returns:
      One probe for each label, and the components one by one.
    """
    import threadpoolctl  # which scikit-learn brings

    products = gram(features)
    parts = [components(products, fitted, held, share) for fitted, held in where]
    everyone = np.arange(len(code))
    whole = components(products, everyone, everyone[:0], share)
    # Fits are many and small: threads would wait for each other most of the time.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        found = [
            _probe(block, label, values, parts, whole, code, where, repeats, (seed, place))
            for place, (label, values) in enumerate(labels.items())
        ]
        return found, _one_by_one(block, whole, labels, code, where)


def _probe(
    block: str, label: str, values: Int[np.ndarray, " n"], parts: Sequence[FittedComponents], whole: FittedComponents, code: Int[np.ndarray, " n"],
    where: Sequence[tuple[np.ndarray, np.ndarray]], repeats: int, seed: Sequence[int],
) -> Probe:  # fmt: skip
    """One label in one block."""
    known = values >= 0
    kept, kept_where = parts, where
    if not known.all():
        kept, kept_where = _without(parts, where, known)
    where_known = np.flatnonzero(known)
    number = np.full(len(code), -1)
    number[where_known] = np.arange(len(where_known))
    inner = [(number[f], number[h]) for f, h in kept_where]
    own, own_code = values[known], np.unique(code[known], return_inverse=True)[1]
    probability = _held_out(kept, inner, own)
    right = _right(probability, own)
    two = probability.shape[1] == 2
    area = intervals.area(own == own.max(), probability[:, 1], own_code) if two else None
    generator = np.random.default_rng(seed)
    control = [
        _right(_held_out(kept, inner, drawn), drawn).mean()
        for drawn in (shuffled(own, own_code, generator) for _ in range(repeats))
    ]
    in_sample = (
        _regression().fit(whole.fitted[known], own).score(whole.fitted[known], own)
        if whole.fitted.shape[1] and probability.shape[1] > 1
        else float(np.bincount(own).max() / len(own))
    )
    return Probe(
        block, label, probability.shape[1], float(np.mean([p.fitted.shape[1] for p in parts])), intervals.proportion(right, own_code), area,
        float(in_sample), float(np.bincount(own).max() / len(own)), np.array(control),
    )  # fmt: skip


def _without(
    parts: Sequence[FittedComponents], where: Sequence[tuple[np.ndarray, np.ndarray]], known: np.ndarray
) -> tuple[list[FittedComponents], list[tuple[np.ndarray, np.ndarray]]]:
    """The folds without images of unknown label."""
    kept, places = [], []
    for part, (fitted, held) in zip(parts, where, strict=True):
        kept.append(FittedComponents(part.fitted[known[fitted]], part.others[known[held]], part.shares))
        places.append((fitted[known[fitted]], held[known[held]]))
    return kept, places


def _one_by_one(
    block: str,
    whole: FittedComponents,
    labels: Mapping[str, np.ndarray],
    code: np.ndarray,
    where: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Alone:
    count = min(whole.fitted.shape[1], MOST_COMPONENTS)
    accuracy = {}
    for label, values in labels.items():
        known, reached = values >= 0, []
        for k in range(count):
            alone = whole.fitted[:, [k]]
            parts = [FittedComponents(alone[f], alone[h], whole.shares[[k]]) for f, h in where]
            if known.all():
                kept, places, own = parts, list(where), values
            else:
                kept, places = _without(parts, where, known)
                number = np.cumsum(known) - 1
                places, own = [(number[f], number[h]) for f, h in places], values[known]
            reached.append(_right(_held_out(kept, places, own), own).mean())
        accuracy[label] = np.array(reached)
    first = next(iter(labels))
    dominant, boundary = 0, float("nan")
    if count:
        dominant = int(accuracy[first].argmax())
        known = labels[first] >= 0
        if len(np.unique(labels[first][known])) == 2:
            model = _regression().fit(whole.fitted[known][:, [dominant]], labels[first][known])
            slope = float(model.coef_[0, 0])
            boundary = -float(model.intercept_[0]) / slope if slope else float("nan")
    return Alone(block, whole.shares[:count], accuracy, whole.fitted[:, :count], dominant, boundary)
