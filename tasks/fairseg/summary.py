"""The study on one page: how well each method outlines each group, how far groups are apart, and what FEBS does to gradients."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from equipoise.engine import config as run_config
from equipoise.engine import data
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.comparing import methods as runs
from equipoise.engine.metrics.comparing.methods import Contrast, MethodScores
from equipoise.engine.metrics.estimates import comparisons
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.table.table import Table, read_table
from equipoise.engine.report.figures import dots
from equipoise.engine.report.page import (
    Cell,
    ReportTable,
    Section,
    files,
    interval,
    number,
    page,
    probability,
    text_cell,
)
from equipoise.engine.rundir import RunFolder
from equipoise.tasks.fairseg import analysis, gradients
from equipoise.tasks.fairseg.gradients import Kept
from equipoise.tasks.kit import gather as kit_gather
from equipoise.tasks.kit import pages

_ERM = "erm"
_NAMES = {
    "febs_released": "FEBS, as released",
    "febs_intent": "FEBS, as intended",
    "group_dro": "GroupDRO",
    _ERM: "ERM",
}
_ORDER = (_ERM, "febs_released", "febs_intent", "group_dro", "resampling", "reweighing")
_RESAMPLES = 1000
_CAPTION = "Mean over seeds, 95 % interval over seeds and subjects"


@dataclasses.dataclass(frozen=True)
class ScoredRun:
    """One run on the test split of its cohort."""

    model: str
    method: str
    seed: int
    workdir: pathlib.Path
    group: str
    table: Table


@dataclasses.dataclass(frozen=True)
class Network:
    """Every method of one network.

    Attributes:
      name: of its runs.
      group: attribute whose levels are compared.
      structures: that are scored.
      methods: structure -> method -> scores over seeds.
      contrasts: structure -> differences from ERM.
      erm: folder of ERM's first seed.
    """

    name: str
    group: str
    structures: Sequence[str]
    methods: Mapping[str, Mapping[str, MethodScores]]
    contrasts: Mapping[str, Sequence[Contrast]]
    erm: pathlib.Path


def _scored(workdir: pathlib.Path, folder: pathlib.Path) -> ScoredRun:
    config = run_config.load(workdir)
    newest = RunFolder(workdir).newest(config.data.cohort, "test")
    network = kit_gather.name_of_runs(workdir, folder).partition("-")[0]
    table = read_table(newest.path)
    return ScoredRun(network, config.method.name, config.seed, workdir, config.method.group, table)


def _compare(name: str, found: Sequence[ScoredRun], group: str) -> Network:
    dice = [c for c in found[0].table.schema.scores if c.startswith("dice_")]
    methods, contrasts = {}, {}
    for column in dice:
        frames: dict[str, dict[str, frame.Frame]] = {}
        for one in sorted(found, key=lambda one: (_ORDER.index(one.method), one.seed)):
            frames.setdefault(one.method, {})[str(one.seed)] = frame.evaluate(
                one.table,
                model=column,
                metrics=("mean",),
                groups=(group,),
                compare=False,
                resamples=_RESAMPLES,
            )
        each = {method: runs.method(seeds) for method, seeds in frames.items()}
        structure = column.removeprefix("dice_")
        methods[structure] = each
        usual = {_ERM: each[_ERM]} if _ERM in each else {}
        contrasts[structure] = [
            c for other, one in each.items() if usual and other != _ERM
            for c in runs.contrasts({other: one} | usual)
        ]  # fmt: skip
    erm = next((one.workdir for one in found if one.method == _ERM), found[0].workdir)
    return Network(name, group, list(methods), methods, contrasts, erm)


def gather(folder: pathlib.Path) -> tuple[list[Network], list[tuple[str, str]]]:
    """Every network's methods, and what could not be read with the reason.

    Raises:
      UserError: where there is nothing to read.
    """
    scored, left_out = kit_gather.read_each(
        kit_gather.run_folders(folder), folder, lambda run: _scored(run, folder)
    )
    if not scored:
        raise kit_gather.nothing_evaluated(folder)
    by_model: dict[str, list[ScoredRun]] = {}
    for run in scored:
        by_model.setdefault(run.model, []).append(run)
    named = sorted({run.group for run in scored} - {""})
    if not named:
        raise UserError(
            f"no run in {folder / 'runs'} has --config.method.group, which says whose groups are compared: wait for one that has"
        )
    if len(named) > 1:
        raise UserError(f"the runs in {folder / 'runs'} are of several attributes: {', '.join(named)}")
    return [_compare(name, runs, named[0]) for name, runs in by_model.items()], left_out


def _title(method: str) -> str:
    return _NAMES.get(method, method.replace("_", " "))


def _served(model: Network, structure: str) -> ReportTable:
    """A structure: everyone, every group, the range between groups, equity-scaled Dice."""
    methods = model.methods[structure]
    levels = runs.known_levels(next(iter(next(iter(methods.values())).runs.values())), model.group)
    rows = []
    for name, one in methods.items():
        groups, gaps = one.groups[model.group], one.disparities[model.group]
        spread = gaps["max_min:mean"]
        scaled, *ends = comparisons.equity_scaled_sum(
            one.overall["mean"].estimate, [groups[level]["mean"].estimate for level in levels]
        )
        cells = [dots.cell(groups[level]["mean"], False) for level in levels]
        rows.append(
            (
                text_cell(_title(name)), dots.cell(one.overall["mean"], False), *cells,
                Cell(number(spread.value), note=interval(spread.low, spread.high)), Cell(number(scaled), note=interval(*ends)),
            )
        )  # fmt: skip
    first = next(iter(methods.values()))
    counts = [next(iter(first.runs.values())).groups[model.group][level]["mean"].n for level in levels]
    named = (f"{level} (n = {n})" for level, n in zip(levels, counts, strict=True))
    header = ("method", "everyone", *named, "largest − smallest", "equity-scaled (sum)")
    return ReportTable(header, rows, f"Dice of the {structure}. {_CAPTION}")


def _changes(model: Network) -> ReportTable:
    """Differences from ERM: everyone, worst group, and the gap of every group."""
    rows = []
    for structure in model.structures:
        for one in model.contrasts[structure]:
            what = {
                "mean": "everyone" if not one.level else one.level,
                "worst_group:mean": "worst group",
            }.get(one.score)
            if one.score.startswith("difference:"):
                what = f"gap {one.level.replace(' - ', ' − ')}"
            cells = (
                Cell(number(one.value, 3, True), note=interval(one.low, one.high, 3, True)),
                Cell(probability(one.p_adjusted)),
            )
            rows.append((text_cell(structure), text_cell(_title(one.first)), text_cell(what), *cells))
    header = ("structure", "method", "of", "Dice − ERM, 95 % interval", "p, adjusted")
    return ReportTable(header, rows, "Differences from ERM, paired by seed and by subject", True)


def _figure(model: Network) -> page.Figure:
    panels = []
    for structure in model.structures:
        methods = model.methods[structure]
        levels = runs.known_levels(next(iter(next(iter(methods.values())).runs.values())), model.group)
        for level in levels:
            rows = [dots.row(_title(m), one.groups[model.group][level]["mean"]) for m, one in methods.items()]
            panels.append((f"{structure}, {level}", rows))
    return dots.draw(
        panels, f"dice_{model.name}", f"Dice of every structure in every group of {model.group}, by method, with 95 % intervals.",
        "Large: mean over seeds with its 95 % interval over seeds and subjects; small: each seed.", "Dice",
    )  # fmt: skip


def served(model: Network) -> Section:
    """How well each method outlines each group."""
    tables = [*(_served(model, structure) for structure in model.structures), _changes(model)]
    return Section(
        f"Who is outlined worse: {model.name}",
        (
            "Every image has a Dice of each structure; a group's is their mean. Equity-scaled Dice divides that of everyone by 1 + the sum over "
            "groups of how far the group's lies from it.",
        ),
        (_figure(model),),
        tables,
        headline=_headline(model),
    )  # fmt: skip


def _headline(model: Network) -> str | None:
    """The range between groups under ERM, and what each form of FEBS does to the worst group."""
    structure = model.structures[0]
    gap = model.methods[structure].get(_ERM)
    if gap is None:
        return None
    spread = gap.disparities[model.group]["max_min:mean"]
    text = f"{model.name}: under ERM the Dice of the {structure} differs by {number(spread.value)} ({interval(spread.low, spread.high)}) between groups of {model.group}."
    worst = {c.first: c for c in model.contrasts[structure] if c.score == "worst_group:mean"}
    said = [
        f"{_title(name)} moves the worst group by {number(worst[name].value, 3, True)} ({interval(worst[name].low, worst[name].high, 3, True)})"
        for name in gradients.FORMS
        if name in worst
    ]
    return f"{text} {'; '.join(said)}." if said else text


def scaling(model: Network, kept: Sequence[Kept]) -> Section:
    """What FEBS does to the gradient of each group."""
    rows = [
        (text_cell(_title(k.form)), text_cell(k.group), Cell(number(k.loss)), Cell(number(k.ratio), note=f"SD of log {number(k.sd, 2)}"),
         Cell(str(k.num_batches)))
        for k in kept
    ]  # fmt: skip
    hardest = max(kept, key=lambda k: k.loss).group
    by = {k.form: k.ratio for k in kept if k.group == hardest}
    headline = (
        f"{model.name}: in the hardest group ({hardest}) Dice keeps {number(by['febs_released'], 2)} of its gradient under FEBS as released, and "
        f"{number(by['febs_intent'], 2)} under FEBS as intended."
    )
    text = (
        "FEBS as released multiplies the probabilities of a group by tanh((min L / L)^gamma), which is smallest where the loss is largest: the "
        "hardest group is learnt least. The paper's text asks for the opposite. Ratios are of the norm of the gradient in the group's logits, over "
        "that of Dice of the whole batch, at the model that ERM trained.",
    )  # fmt: skip
    header = ("form", model.group, "Dice loss", "gradient kept", "batches")
    return Section(
        f"What FEBS does to gradients: {model.name}",
        text,
        (),
        (ReportTable(header, rows),),
        headline=headline,
    )


def _metadata(model: Network, data_dir: pathlib.Path) -> Mapping[str, Any]:
    """The metadata of the cohort that a network was trained on."""
    config = run_config.load(model.erm)
    return data.open_split(config.data.cohort, config.data.train_split, data_dir).metadata


def _csv(models: Sequence[Network]) -> str:
    rows = []
    for model in models:
        for structure, methods in model.methods.items():
            for method, one in methods.items():
                cells = {"": one.overall} | one.groups[model.group]
                for level, found in cells.items():
                    estimate = found["mean"].estimate
                    low, high = estimate.limits(frame.CONFIDENCE)
                    rows.append(
                        {"model": model.name, "method": method, "structure": structure, model.group: level, "dice": estimate.value,
                         "low": low, "high": high, "n": estimate.n, "seeds": len(one.runs)}
                    )  # fmt: skip
    return files.safe_csv(pd.DataFrame(rows))


def write(folder: pathlib.Path, data_dir: pathlib.Path) -> list[pathlib.Path]:
    """Writes ``folder/report``: ``report.html``, ``dice.csv`` and ``figures/``.

    Args:
      folder: of the study.
      data_dir: where its cohort is prepared.

    Returns:
      The files written.
    """
    models, left_out = gather(folder)
    found, keys = [], []
    difficulty = analysis.difficulty(_metadata(models[0], data_dir))
    for model in models:
        found += [served(model), scaling(model, gradients.measure(model.erm, data_dir, model.group))]
        for structure in model.structures:
            one = model.methods[structure].get(_ERM)
            if one:
                mean = one.overall["mean"].estimate
                keys.append(pages.key_number(f"Dice of the {structure}, {model.name}, ERM", mean))
    found += [difficulty] if difficulty else []
    found += pages.left_out(left_out)
    title = "FairSeg: who is outlined worse, and what helps"
    return pages.write(folder, title, found, keys, {"dice.csv": _csv(models)})
