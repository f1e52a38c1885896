"""Renderings of the same subjects with and without each bias, and what a bias does to the decisions about them."""

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
    """The attributes of the reported cohort that say who has which bias."""
    return [a for a in BIASES if a in context.schema.attributes]


def words(attributes: Collection[str]) -> dict[str, str]:
    """Attribute -> what the page calls it. Where a cohort has two, ``bias`` is the bias in morphology."""
    return {a: "bias" if len(attributes) == 1 else ("intensity" if a != BIASES[0] else "morphology") for a in attributes}  # fmt: skip


def combination(levels: Mapping[str, str]) -> str:
    """Levels of the biases in words: ``with`` for one bias; ``both``, ``intensity only`` or ``neither`` for two."""
    if len(levels) == 1:
        return next(iter(levels.values()))
    present = [words(levels)[a] for a, level in levels.items() if level == WITH]
    return "neither" if not present else "both" if len(present) == len(levels) else f"{present[0]} only"


def flipped(cohort: str, attributes: Collection[str]) -> frozenset[str]:
    """The biases that a cohort renders the other way round, from its name."""
    name = _NAME.fullmatch(cohort)
    if not name["counterfactual"]:
        return frozenset()
    return frozenset(attributes if name["flip"] == "all" else [name["flip"] or BIASES[0]])


def rendering(cohort: str, flips: Collection[str]) -> str:
    """The cohort that holds the same subjects with these biases flipped.

    Args:
      cohort: any rendering of the subjects, such as ``simba/multi_4mm_counterfactual_seed1``.
      flips: the attributes to flip: none gives ``simba/multi_4mm_seed1``, the intensity bias alone
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
      name: short name, for a figure.
      what: what is rendered, as part of a sentence.
      first: attribute that differs -> its level; the other attributes stay as they are.
      second: the same attributes -> their other levels.
    """

    name: str
    what: str
    first: Mapping[str, str]
    second: Mapping[str, str]

    @property
    def flips(self) -> frozenset[str]:
        """The attributes that differ."""
        return frozenset(self.first)


def rendering_pairs(attributes: Sequence[str]) -> list[RenderingPair]:
    """The pairs that a report compares: with each bias and without it; for two, also both and neither, and the second instead of the first."""
    named = words(attributes)
    what = {a: "the bias" if word == "bias" else f"the {word} bias" for a, word in named.items()}
    wanted = [RenderingPair(named[a], what[a], {a: WITHOUT}, {a: WITH}) for a in attributes]
    if len(attributes) == 2:
        first, second = attributes
        neither, both = (dict.fromkeys(attributes, level) for level in (WITHOUT, WITH))
        wanted += [
            RenderingPair("both − neither", "both biases", neither, both),
            RenderingPair(
                f"{named[second]} − {named[first]}",
                f"{what[second]} instead of {what[first]}",
                neither | {first: WITH},
                neither | {second: WITH},
            ),
        ]
    return wanted


def both_ways(tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]], ways: RenderingPair) -> pd.DataFrame:
    """The decisions about both renderings of every subject that was rendered both ways.

    Args:
      tables: pairs of prediction tables of the same subjects that differ in the attributes of ``ways`` and in no other bias. A
        subject is taken from the first pair that shows it both ways.
      ways: the two renderings.

    Returns:
      ``subject_id``, ``target``, and whether the subject is called diseased: ``first``, ``second``.

    Raises:
      UserError: when two tables do not hold the same subjects once each, with the same disease status and both renderings.
    """
    decided = pd.concat([_both_ways(side_by_side(*pair, ways.flips), ways) for pair in tables])
    return decided.drop_duplicates("subject_id", ignore_index=True)


def paired_effect(
    tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]], ways: RenderingPair, positive: int = 1
) -> PairedEffect:
    """The change of decisions between two renderings.

    Args:
      tables: as in :func:`both_ways`.
      ways: the two renderings.
      positive: class index of the disease.
    """
    decided = both_ways(tables, ways)
    diseased = (decided["target"] == positive).to_numpy()
    return pairs.effect(decided["first"].to_numpy(bool), decided["second"].to_numpy(bool), diseased)


def side_by_side(a: pd.DataFrame, b: pd.DataFrame, flips: Collection[str]) -> pd.DataFrame:
    """Puts two renderings of the same subjects side by side (:func:`equipoise.tasks.kit.pairs.side_by_side`).

    Raises:
      UserError: where they are not renderings of the same subjects, or the biases that differ are not those of ``flips``.
    """
    biases = [name for name in BIASES if name in a or name in b or name in flips]
    return pairs.side_by_side(a, b, attributes=biases, flips=flips, levels=(WITH, WITHOUT))


def _both_ways(pair: pd.DataFrame, ways: RenderingPair) -> pd.DataFrame:
    """Subjects whose two renderings are the wanted ones, with target and the decision about each rendering."""
    matches = lambda levels: np.all([pair[f"{a}_a"] == level for a, level in levels.items()], axis=0)  # noqa: E731
    forward, backward = matches(ways.first), matches(ways.second)
    a, b = pairs.decisions(pair)
    decided = pd.DataFrame(
        {
            "subject_id": pair["subject_id"],
            "target": pair["target_a"],
            "first": np.where(forward, a, b),
            "second": np.where(forward, b, a),
        }
    )
    return decided[forward | backward]


def _effects(context: Context, attributes: Sequence[str]) -> list[tuple[RenderingPair, PairedEffect]]:
    """Every pair of renderings that was scored, with its effect.

    A pair that differs in one bias leaves the other bias as the reported cohort has it. A pair that differs in both fixes the level of
    both, so that subjects with other levels in the reported images are taken from the other two renderings.
    """
    positive = context.schema.classes.index(context.schema.positive)
    shown, effects = flipped(context.cohort, attributes), []
    tables = {
        flips: context.tables.get((rendering(context.cohort, flips), context.split))
        for flips in _every(attributes)
    }
    for ways in rendering_pairs(attributes):
        starts = [shown] if len(ways.flips) == 1 else [shown, shown ^ {attributes[0]}]
        scored = [(tables[start], tables[start ^ ways.flips]) for start in starts]
        scored = [pair for pair in scored if all(table is not None for table in pair)]
        if scored:
            effects.append((ways, paired_effect(scored, ways, positive)))
    return effects


def _every(attributes: Sequence[str]) -> list[frozenset[str]]:
    """All sets of biases that can be flipped; the empty set comes first."""
    sizes = range(len(attributes) + 1)
    return [frozenset(s) for size in sizes for s in itertools.combinations(attributes, size)]


def _sentence(ways: RenderingPair, effect: PairedEffect) -> str:
    """The effect of a pair of renderings in a sentence."""
    moves = any(pairs.direction(change) for change in effect.changes.values())
    verb = "changes" if moves else "changed neither rate beyond chance:"
    return (
        f"Rendering {ways.what} into the very same subjects {verb} sensitivity by {pairs.points(effect.sensitivity)} "
        f"and the false-positive rate by {pairs.points(effect.fpr)}."
    )


def _verdict(effect: PairedEffect, attributes: Sequence[str]) -> str:
    """Says which of two biases decides, from the effect of the second instead of the first."""
    directions = {pairs.direction(change) for change in effect.changes.values()} - {0}
    first, second = (f"the {word} bias" for word in words(attributes).values())
    if not directions:
        return "Neither bias outweighs the other beyond chance."
    if len(directions) == 2:
        return "Which bias outweighs the other depends on the disease."
    return sentence(f"{second} outweighs {first}." if directions == {1} else f"{first} outweighs {second}.")


def _grid(ways: RenderingPair, effect: PairedEffect, is_one: bool) -> ReportTable:
    """A table of the effect of a pair of renderings."""
    ends = [combination(levels) + (" bias" if is_one else "") for levels in (ways.first, ways.second)]
    header = pairs.header("rate", "subjects", ends)
    rows = [pairs.cells(rate, change) for rate, change in effect.changes.items()]
    return ReportTable(header, rows, "" if is_one else sentence(ways.what))


def section(context: Context) -> Section:
    """A section on the same subjects, rendered with and without each bias."""
    biases = attributes(context)
    is_one = len(biases) == 1
    title = f"The same subjects, with and without {'the' if is_one else 'each'} bias"
    if context.metadata.get("design", {}).get("scenario") == "none":
        return Section(
            title,
            ("This cohort has no bias effect, so that there is no second rendering of its subjects.",),
        )
    others = [rendering(context.cohort, flips) for flips in _every(biases)]
    command = "\n".join(
        f"equipoise evaluate --workdir=... --cohort={other} --split={context.split} --step={context.step}"
        for other in others
        if (other, context.split) not in context.tables
    )
    effects = _effects(context, biases)
    if not effects:
        text = "The subjects have not been scored with the bias flipped at this checkpoint. After this evaluation the section shows what the bias itself does:"
        return Section(title, (text,), command=command)
    text = [
        "Groups can differ for many reasons; here each subject is compared with itself. Every test subject was rendered "
        + ("twice, with the bias and without it" if is_one else "with and without each bias")
        + ", with the same random draws, so that a change can only come from the bias. Intervals: Newcombe's paired score interval (1998, method 10).",
    ]  # fmt: skip
    if not is_one:
        text.append("Where one bias changes, the other stays as it is in the reported images.")
    if command:
        text.append("Not every rendering has been scored at this checkpoint. The rest of this section needs:")
    figure = forests.gaps(
        [
            (rate.replace(", ", ",\n") if is_one else f"{ways.name},\n{rate.split(',')[0]}", change.value, change.low, change.high)
            for ways, effect in effects
            for rate, change in effect.changes.items()
        ],
        "paired_effect",
        "Change when a bias is rendered into the very same subjects. Everything else about them is identical.",
        unit="with bias − without bias" if is_one else "change of the rate",
    )  # fmt: skip
    singles = [pair for pair in effects if len(pair[0].flips) == 1]
    keys = [
        KeyNumber(
            f"paired change in {short}" + ("" if is_one else f", {ways.name}"),
            number(change.value, 3, True),
            interval(change.low, change.high, 3, True),
        )
        for ways, effect in singles
        for short, change in (("TPR", effect.sensitivity), ("FPR", effect.fpr))
    ]
    last = effects[-1]
    headline = (
        " ".join(_sentence(*pair) for pair in singles)
        if last in singles
        else f"{_verdict(last[1], biases)} {_sentence(*last)}"
    )
    grids = [_grid(*pair, is_one) for pair in effects]
    return Section(
        title, text, (figure,), grids, command=command or None, headline=headline, key_numbers=keys
    )
