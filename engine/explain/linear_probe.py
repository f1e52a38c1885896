"""Linear probes: how well the activations of a block tell a label, judged on patients that the probe was not fitted to.

A probe is a logistic regression on the principal components of a block's activations. Everything is computed from the [n, n]
products of the images' activations, so that a block of a million values costs one pass over its file. Probes are cross-validated
by patient. Scored on the images it was fitted to (``in_sample``, as published studies do), a probe looks too good, and more so the
more components it has.

A probe can also learn by chance. A control task repeats it with the labels of whole patients shuffled (Hewitt and Liang,
EMNLP-IJCNLP 2019:2733). What the probe reaches beyond its control is in the features.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int, Shaped

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.estimates.intervals import Estimate

_COLUMNS = 1 << 16  # columns of activations that are read together
_NEGLIGIBLE = 1e-10  # eigenvalues below this share of the largest count as 0
MOST_COMPONENTS = 10  # components that are probed one by one


def gram(features: Float[np.ndarray, "n values"]) -> Float[np.ndarray, "n n"]:
    """The products of the activations of every two images, in float64; activations are centred over the images."""
    total = np.zeros((len(features), len(features)))
    for start in range(0, features.shape[1], _COLUMNS):
        part = np.asarray(features[:, start : start + _COLUMNS], np.float64)
        part -= part.mean(axis=0)
        total += part @ part.T
    return total


@dataclasses.dataclass(frozen=True)
class FittedComponents:
    """Principal components fitted on some images, from the products of all images.

    Attributes:
      fitted: scores of the images that they were fitted on.
      others: scores of the other images.
      shares: each component's share of the variance.
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
      share: the share of the variance to keep.

    Returns:
      The components; none where all images are alike.
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


def _regression() -> Any:
    """The classifier of a probe: an L2-penalised logistic regression with scikit-learn's defaults.

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
    """Folds of cross-validation. Each keeps the images of a patient together and has about the same share of every class.

    Args:
      labels: name -> class of each image.
      code: number of the patient of each image.
      count: the number of folds.
      seed: of the shuffle.

    Returns:
      (numbers of the images to fit on, numbers of the images held out) of each fold.

    Raises:
      UserError: when there are fewer patients than folds.
    """
    _regression()
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(code)) < count:
        raise UserError(f"{len(np.unique(code))} patients cannot be parted into {count} folds")
    joint = np.unique(np.stack(list(labels.values())), axis=1, return_inverse=True)[1].ravel()
    fewest = np.bincount(joint).min()
    if fewest < count:  # a combination is too rare for every fold: balance the first label alone
        joint = next(iter(labels.values()))
    split = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(split.split(np.zeros(len(code)), joint, code))


def shuffled(
    labels: Shaped[np.ndarray, " n"], code: Int[np.ndarray, " n"], generator: np.random.Generator
) -> Shaped[np.ndarray, " n"]:
    """Shuffles labels among patients with equally many images. A patient gets all labels of one other patient, never a mixture."""
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
      block: name of the block.
      label: name of the label.
      classes: the number of classes.
      num_components: the number of components in a fold, on average.
      accuracy: share of images that are told rightly by a probe that was not fitted to their patient; clustered by patient.
      auroc: for two classes, in the same way; None for more classes.
      in_sample: accuracy of a probe fitted to all images, on the same images.
      chance: accuracy of always naming the commonest class.
      control: accuracies with shuffled labels, one for each repeat.
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
class SingleComponents:
    """How well each principal component alone tells each label, cross-validated.

    Attributes:
      block: name of the block.
      shares: each component's share of the variance.
      accuracy: label -> accuracy of a probe on each component alone.
      scores: [n, k] scores of every image.
      dominant: number of the component that tells the first label best.
      boundary: score of that component at which the probe of the first label changes its decision; NaN where it never does.
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
    """The probability of each class for every image, from the probe that was not fitted to its patient."""
    classes = np.unique(labels)
    probability = np.zeros((len(labels), len(classes)))
    for part, (fitted, held) in zip(parts, where, strict=True):
        seen = np.unique(labels[fitted])
        if len(seen) < 2 or not part.fitted.shape[1]:  # nothing to learn: name the commonest class
            probability[held, np.searchsorted(classes, np.bincount(labels[fitted]).argmax())] = 1
            continue
        model = _regression().fit(part.fitted, labels[fitted])
        probability[np.ix_(held, np.searchsorted(classes, model.classes_))] = model.predict_proba(part.others)
    return probability


def _right(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the most probable class of each image is its label."""
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
) -> tuple[list[Probe], SingleComponents]:
    """Probes every label in one block.

    Args:
      block: its name.
      features: its activations; they may be memory-mapped.
      labels: name -> class of each image, -1 where it is unknown: such an image is left out of the probe of that label.
      code: number of the patient of each image.
      where: the folds, from :func:`folds`.
      share: the share of the variance that the components keep.
      repeats: repeats of the control task.
      seed: of the shuffles of the control task.

    Returns:
      A probe for each label, and the probes of single components.
    """
    import threadpoolctl  # comes with scikit-learn

    products = gram(features)
    parts = [components(products, fitted, held, share) for fitted, held in where]
    everyone = np.arange(len(code))
    whole = components(products, everyone, everyone[:0], share)
    # There are many small fits: threads would mostly wait for each other.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        of_labels = [
            _probe(block, label, values, parts, whole, code, where, repeats, (seed, place))
            for place, (label, values) in enumerate(labels.items())
        ]
        return of_labels, _one_by_one(block, whole, labels, code, where)


def _probe(
    block: str, label: str, values: Int[np.ndarray, " n"], parts: Sequence[FittedComponents], whole: FittedComponents, code: Int[np.ndarray, " n"],
    where: Sequence[tuple[np.ndarray, np.ndarray]], repeats: int, seed: Sequence[int],
) -> Probe:  # fmt: skip
    """Probes one label in one block."""
    known = values >= 0
    kept, kept_where = parts, where
    if not known.all():
        kept, kept_where = _without(parts, where, known)
    where_known = np.flatnonzero(known)
    number = np.full(len(code), -1)
    number[where_known] = np.arange(len(where_known))
    inner = [(number[f], number[h]) for f, h in kept_where]
    target, patient = values[known], np.unique(code[known], return_inverse=True)[1]
    probability = _held_out(kept, inner, target)
    right = _right(probability, target)
    two = probability.shape[1] == 2
    area = intervals.area(target == target.max(), probability[:, 1], patient) if two else None
    generator = np.random.default_rng(seed)
    control = [
        _right(_held_out(kept, inner, drawn), drawn).mean()
        for drawn in (shuffled(target, patient, generator) for _ in range(repeats))
    ]
    in_sample = (
        _regression().fit(whole.fitted[known], target).score(whole.fitted[known], target)
        if whole.fitted.shape[1] and probability.shape[1] > 1
        else float(np.bincount(target).max() / len(target))
    )
    return Probe(
        block, label, probability.shape[1], float(np.mean([p.fitted.shape[1] for p in parts])), intervals.proportion(right, patient), area,
        float(in_sample), float(np.bincount(target).max() / len(target)), np.array(control),
    )  # fmt: skip


def _without(
    parts: Sequence[FittedComponents], where: Sequence[tuple[np.ndarray, np.ndarray]], known: np.ndarray
) -> tuple[list[FittedComponents], list[tuple[np.ndarray, np.ndarray]]]:
    """The folds without the images whose label is unknown."""
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
) -> SingleComponents:
    """Probes the leading components one by one."""
    count = min(whole.fitted.shape[1], MOST_COMPONENTS)
    accuracy = {}
    for label, values in labels.items():
        known, reached = values >= 0, []
        for k in range(count):
            alone = whole.fitted[:, [k]]
            parts = [FittedComponents(alone[f], alone[h], whole.shares[[k]]) for f, h in where]
            if known.all():
                kept, places, target = parts, list(where), values
            else:
                kept, places = _without(parts, where, known)
                number = np.cumsum(known) - 1
                places, target = [(number[f], number[h]) for f, h in places], values[known]
            reached.append(_right(_held_out(kept, places, target), target).mean())
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
    return SingleComponents(
        block, whole.shares[:count], accuracy, whole.fitted[:, :count], dominant, boundary
    )
