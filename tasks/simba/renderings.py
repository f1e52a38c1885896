"""The renderings of a SimBA cohort's subjects, with and without each bias, and what a bias does to the very same subjects."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from equipoise.engine.report.figures import forests
from equipoise.engine.report.page import KeyNumber, ReportTable, Section, interval, number, sentence
from equipoise.engine.report.single.context import Context
from equipoise.tasks.kit import pairs
from equipoise.tasks.kit.pairs import PairedEffect

WITH, WITHOUT = "with", "without"
BIASES = ("bias", "intensity_bias")
_NAME = re.compile(
    r"(?P<start>.*?(?:mm|$))(?P<counterfactual>_counterfactual(?:_flip(?P<flip>intensity_bias|all))?)?(?P<settings>.*)"
)


def attributes(context: Context) -> list[str]:
    """The attributes of the reported cohort that are groups of bias."""
    return [a for a in BIASES if a in context.schema.attributes]


def words(attributes: Collection[str]) -> dict[str, str]:
    """Attribute -> what the page calls it; where there are two, ``bias`` is of morphology."""
    return {a: "bias" if len(attributes) == 1 else ("intensity" if a != BIASES[0] else "morphology") for a in attributes}  # fmt: skip


def combination(levels: Mapping[str, str]) -> str:
    """Levels of the biases in words: ``with``; of two ``both``, ``intensity only``, ``neither``."""
    if len(levels) == 1:
        return next(iter(levels.values()))
    present = [words(levels)[a] for a, level in levels.items() if level == WITH]
    return "neither" if not present else "both" if len(present) == len(levels) else f"{present[0]} only"


def flipped(cohort: str, attributes: Collection[str]) -> frozenset[str]:
    """The biases that a cohort renders the other way round, as its name says."""
    name = _NAME.fullmatch(cohort)
    if not name["counterfactual"]:
        return frozenset()
    return frozenset(attributes if name["flip"] == "all" else [name["flip"] or BIASES[0]])


def rendering(cohort: str, flips: Collection[str]) -> str:
    """The cohort that holds the same subjects with these biases flipped.

    Args:
      cohort: any rendering of them, such as ``simba/multi_4mm_counterfactual_seed1``.
      flips: attributes: none gives ``simba/multi_4mm_seed1``, the intensity bias alone
        ``simba/multi_4mm_counterfactual_flipintensity_bias_seed1``.
    """
    name = _NAME.fullmatch(cohort)
    flip = "all" if len(flips) > 1 else next(iter(flips), "")
    suffix = (flip and "_counterfactual") + (f"_flip{flip}" if flip not in ("", BIASES[0]) else "")
    return name["start"] + suffix + name["settings"]


@dataclasses.dataclass(frozen=True)
class RenderingPair:
    """Two ways to render a subject.

    Attributes:
      name: where there is little room.
      what: is rendered, in a sentence.
      first: attribute -> level, of those that differ; the others stay as they are.
      second: the same attributes -> the other level.
    """

    name: str
    what: str
    first: Mapping[str, str]
    second: Mapping[str, str]

    @property
    def flips(self) -> frozenset[str]:
        """The attributes that differ."""
        return frozenset(self.first)


def contrasts(attributes: Sequence[str]) -> list[RenderingPair]:
    """With against without each bias; of two, also both against neither, and the second instead of the first."""
    named = words(attributes)
    what = {a: "the bias" if word == "bias" else f"the {word} bias" for a, word in named.items()}
    found = [RenderingPair(named[a], what[a], {a: WITHOUT}, {a: WITH}) for a in attributes]
    if len(attributes) == 2:
        first, second = attributes
        neither, both = (dict.fromkeys(attributes, level) for level in (WITHOUT, WITH))
        found += [
            RenderingPair("both − neither", "both biases", neither, both),
            RenderingPair(
                f"{named[second]} − {named[first]}",
                f"{what[second]} instead of {what[first]}",
                neither | {first: WITH},
                neither | {second: WITH},
            ),
        ]
    return found


def both_ways(tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]], contrast: RenderingPair) -> pd.DataFrame:
    """The decision about both renderings of every subject that was rendered both ways.

    Args:
      tables: pairs of prediction tables of the same subjects that differ in the contrast's attributes and in no other bias. A
        subject is taken from the first pair that shows it both ways.
      contrast: which two renderings are asked for.

    Returns:
      ``subject_id``, ``target``, and whether the subject is called diseased: ``first``, ``second``.

    Raises:
      UserError: when two tables do not hold the same subjects once each, with one disease status and both renderings.
    """
    found = pd.concat([_both_ways(side_by_side(*pair, contrast.flips), contrast) for pair in tables])
    return found.drop_duplicates("subject_id", ignore_index=True)


def paired_effect(
    tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]], contrast: RenderingPair, positive: int = 1
) -> PairedEffect:
    """What a contrast does to the decisions of :func:`both_ways`.

    Args:
      tables: as there.
      contrast: of which the change is asked.
      positive: class index of the disease.
    """
    found = both_ways(tables, contrast)
    diseased = (found["target"] == positive).to_numpy()
    return pairs.effect(found["first"].to_numpy(bool), found["second"].to_numpy(bool), diseased)


def side_by_side(a: pd.DataFrame, b: pd.DataFrame, flips: Collection[str]) -> pd.DataFrame:
    """Puts two renderings of the same subjects side by side (:func:`equipoise.tasks.kit.pairs.side_by_side`).

    Raises:
      UserError: where they are not, or differ in another bias than ``flips``, or not in these.
    """
    biases = [name for name in BIASES if name in a or name in b or name in flips]
    return pairs.side_by_side(a, b, attributes=biases, flips=flips, levels=(WITH, WITHOUT))


def _both_ways(pair: pd.DataFrame, contrast: RenderingPair) -> pd.DataFrame:
    """The subjects whose two renderings are the contrast's: subject, target, and the decision about each rendering."""
    matches = lambda levels: np.all([pair[f"{a}_a"] == level for a, level in levels.items()], axis=0)  # noqa: E731
    forward, backward = matches(contrast.first), matches(contrast.second)
    a, b = pairs.decisions(pair)
    found = pd.DataFrame(
        {
            "subject_id": pair["subject_id"],
            "target": pair["target_a"],
            "first": np.where(forward, a, b),
            "second": np.where(forward, b, a),
        }
    )
    return found[forward | backward]


def _effects(context: Context, attributes: Sequence[str]) -> list[tuple[RenderingPair, PairedEffect]]:
    """Every contrast that the scored renderings show.

    A contrast of one bias leaves the other as the reported cohort has it. One of both says all about either end, so that
    subjects whom the reported images show otherwise are taken from the other two renderings.
    """
    positive = context.schema.classes.index(context.schema.positive)
    own, found = flipped(context.cohort, attributes), []
    tables = {
        flips: context.tables.get((rendering(context.cohort, flips), context.split))
        for flips in _every(attributes)
    }
    for contrast in contrasts(attributes):
        starts = [own] if len(contrast.flips) == 1 else [own, own ^ {attributes[0]}]
        scored = [(tables[start], tables[start ^ contrast.flips]) for start in starts]
        scored = [pair for pair in scored if all(table is not None for table in pair)]
        if scored:
            found.append((contrast, paired_effect(scored, contrast, positive)))
    return found


def _every(attributes: Sequence[str]) -> list[frozenset[str]]:
    """All sets of biases that can be flipped, none first."""
    sizes = range(len(attributes) + 1)
    return [frozenset(s) for size in sizes for s in itertools.combinations(attributes, size)]


def _sentence(contrast: RenderingPair, effect: PairedEffect) -> str:
    moves = any(pairs.direction(change) for change in effect.changes.values())
    verb = "changes" if moves else "changed neither rate beyond chance:"
    return (
        f"Rendering {contrast.what} into the very same subjects {verb} sensitivity by {pairs.points(effect.sensitivity)} "
        f"and the false-positive rate by {pairs.points(effect.fpr)}."
    )


def _verdict(effect: PairedEffect, attributes: Sequence[str]) -> str:
    """Which of two biases decides, from what the second does instead of the first."""
    directions = {pairs.direction(change) for change in effect.changes.values()} - {0}
    first, second = (f"the {word} bias" for word in words(attributes).values())
    if not directions:
        return "Neither bias outweighs the other beyond chance."
    if len(directions) == 2:
        return "Which bias outweighs the other depends on the disease."
    return sentence(f"{second} outweighs {first}." if directions == {1} else f"{first} outweighs {second}.")


def _grid(contrast: RenderingPair, effect: PairedEffect, is_one: bool) -> ReportTable:
    ends = [combination(levels) + (" bias" if is_one else "") for levels in (contrast.first, contrast.second)]
    header = pairs.header("rate", "subjects", ends)
    rows = [pairs.cells(rate, change) for rate, change in effect.changes.items()]
    return ReportTable(header, rows, "" if is_one else sentence(contrast.what))


def section(context: Context) -> Section:
    """The same subjects rendered with and without each bias."""
    biases = attributes(context)
    is_one = len(biases) == 1
    title = f"The same subjects, with and without {'the' if is_one else 'each'} bias"
    if context.metadata.get("design", {}).get("scenario") == "none":
        return Section(
            title,
            ("This cohort plants no bias effect, so that there is no second rendering of its subjects.",),
        )
    others = [rendering(context.cohort, flips) for flips in _every(biases)]
    command = "\n".join(
        f"equipoise evaluate --workdir=... --cohort={other} --split={context.split} --step={context.step}"
        for other in others
        if (other, context.split) not in context.tables
    )
    effects = _effects(context, biases)
    if not effects:
        text = "The subjects have not been scored with the bias flipped at this checkpoint. With that evaluation this section shows what the bias itself does:"
        return Section(title, (text,), command=command)
    text = [
        "Groups can differ for many reasons; here each subject is compared with itself. Every test subject was rendered "
        + ("twice, with the bias and without it" if is_one else "with and without each bias")
        + ", from the same draws. A change can only come from the bias. Intervals: Newcombe's paired score interval (1998, method 10).",
    ]  # fmt: skip
    if not is_one:
        text.append("Where one bias is exchanged, the other stays as the reported images have it.")
    if command:
        text.append("Not every rendering has been scored at this checkpoint. The rest of this section needs:")
    figure = forests.gaps(
        [
            (rate.replace(", ", ",\n") if is_one else f"{contrast.name},\n{rate.split(',')[0]}", change.value, change.low, change.high)
            for contrast, effect in effects
            for rate, change in effect.changes.items()
        ],
        "paired_effect",
        "Change when a bias is rendered into the very same subjects. Everything else about them is identical.",
        unit="with bias − without bias" if is_one else "change of the rate",
    )  # fmt: skip
    singles = [found for found in effects if len(found[0].flips) == 1]
    keys = [
        KeyNumber(
            f"paired change in {short}" + ("" if is_one else f", {contrast.name}"),
            number(change.value, 3, True),
            interval(change.low, change.high, 3, True),
        )
        for contrast, effect in singles
        for short, change in (("TPR", effect.sensitivity), ("FPR", effect.fpr))
    ]
    last = effects[-1]
    headline = (
        " ".join(_sentence(*found) for found in singles)
        if last in singles
        else f"{_verdict(last[1], biases)} {_sentence(*last)}"
    )
    grids = [_grid(*found, is_one) for found in effects]
    return Section(
        title, text, (figure,), grids, command=command or None, headline=headline, key_numbers=keys
    )
