"""The page of the study: how well each method outlines each group, how far groups are apart, and what FEBS does to gradients."""

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
from equipoise.tasks.fairseg.gradients import KeptGradient
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
    """One network, trained with every method.

    Attributes:
      name: the name of its runs.
      group: the attribute whose levels are compared.
      structures: names of the structures that are scored.
      methods: structure -> method -> scores over seeds.
      contrasts: structure -> differences from ERM.
      erm: the folder of the first seed under ERM.
    """

    name: str
    group: str
    structures: Sequence[str]
    methods: Mapping[str, Mapping[str, MethodScores]]
    contrasts: Mapping[str, Sequence[Contrast]]
    erm: pathlib.Path


def _scored(workdir: pathlib.Path, folder: pathlib.Path) -> ScoredRun:
    """Reads the last scored step of a run."""
    config = run_config.load(workdir)
    newest = RunFolder(workdir).newest(config.data.cohort, "test")
    network = kit_gather.name_of_runs(workdir, folder).partition("-")[0]
    table = read_table(newest.path)
    return ScoredRun(network, config.method.name, config.seed, workdir, config.method.group, table)


def _compare(name: str, scored: Sequence[ScoredRun], group: str) -> Network:
    """Compares the methods of one network over seeds, structure by structure."""
    dice = [column for column in scored[0].table.schema.scores if column.startswith("dice_")]
    methods, contrasts = {}, {}
    for column in dice:
        frames: dict[str, dict[str, frame.Frame]] = {}
        for run in sorted(scored, key=lambda run: (_ORDER.index(run.method), run.seed)):
            frames.setdefault(run.method, {})[str(run.seed)] = frame.evaluate(
                run.table,
                model=column,
                metrics=("mean",),
                groups=(group,),
                compare=False,
                resamples=_RESAMPLES,
            )
        by_method = {method: runs.method(seeds) for method, seeds in frames.items()}
        structure = column.removeprefix("dice_")
        methods[structure] = by_method
        erm = {_ERM: by_method[_ERM]} if _ERM in by_method else {}
        contrasts[structure] = [
            contrast
            for other, scores in by_method.items()
            if erm and other != _ERM
            for contrast in runs.contrasts({other: scores} | erm)
        ]
    first = next((run.workdir for run in scored if run.method == _ERM), scored[0].workdir)
    return Network(name, group, list(methods), methods, contrasts, first)


def gather(folder: pathlib.Path) -> tuple[list[Network], list[tuple[str, str]]]:
    """Reads the runs: (every network with its methods, the runs that could not be read with the reason).

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
            f"no run in {folder / 'runs'} has --config.method.group, the attribute whose groups are compared: wait until a run with it is scored"
        )
    if len(named) > 1:
        raise UserError(
            f"the runs in {folder / 'runs'} have groups of several attributes: {', '.join(named)}"
        )
    return [_compare(name, runs, named[0]) for name, runs in by_model.items()], left_out


def _title(method: str) -> str:
    """What the page calls a method."""
    return _NAMES.get(method, method.replace("_", " "))


def _served(network: Network, structure: str) -> ReportTable:
    """A table for one structure: Dice of everyone and of every group, the range between groups, equity-scaled Dice."""
    methods = network.methods[structure]
    levels = runs.known_levels(next(iter(next(iter(methods.values())).runs.values())), network.group)
    rows = []
    for name, scores in methods.items():
        groups, gaps = scores.groups[network.group], scores.disparities[network.group]
        spread = gaps["max_min:mean"]
        scaled, *ends = comparisons.equity_scaled_sum(
            scores.overall["mean"].estimate, [groups[level]["mean"].estimate for level in levels]
        )
        cells = [dots.cell(groups[level]["mean"], False) for level in levels]
        rows.append(
            (
                text_cell(_title(name)), dots.cell(scores.overall["mean"], False), *cells,
                Cell(number(spread.value), note=interval(spread.low, spread.high)), Cell(number(scaled), note=interval(*ends)),
            )
        )  # fmt: skip
    first = next(iter(methods.values()))
    counts = [next(iter(first.runs.values())).groups[network.group][level]["mean"].n for level in levels]
    named = (f"{level} (n = {n})" for level, n in zip(levels, counts, strict=True))
    header = ("method", "everyone", *named, "largest − smallest", "equity-scaled (sum)")
    return ReportTable(header, rows, f"Dice of the {structure}. {_CAPTION}")


def _changes(network: Network) -> ReportTable:
    """A table of differences from ERM: of everyone, of the worst group, and of the gap of every group."""
    rows = []
    for structure in network.structures:
        for change in network.contrasts[structure]:
            what = {"mean": change.level or "everyone", "worst_group:mean": "worst group"}.get(change.score)
            if change.score.startswith("difference:"):
                what = f"gap {change.level.replace(' - ', ' − ')}"
            cells = (
                Cell(number(change.value, 3, True), note=interval(change.low, change.high, 3, True)),
                Cell(probability(change.p_adjusted)),
            )
            rows.append((text_cell(structure), text_cell(_title(change.first)), text_cell(what), *cells))
    header = ("structure", "method", "of", "Dice − ERM, 95 % interval", "p, adjusted")
    return ReportTable(header, rows, "Differences from ERM, paired by seed and by subject", True)


def _figure(network: Network) -> page.Figure:
    """A figure of Dice in every group, by method."""
    panels = []
    for structure in network.structures:
        methods = network.methods[structure]
        levels = runs.known_levels(next(iter(next(iter(methods.values())).runs.values())), network.group)
        for level in levels:
            rows = [
                dots.row(_title(name), scores.groups[network.group][level]["mean"])
                for name, scores in methods.items()
            ]
            panels.append((f"{structure}, {level}", rows))
    return dots.draw(
        panels, f"dice_{network.name}", f"Dice of every structure in every group of {network.group}, by method, with 95 % intervals.",
        "Large: mean over seeds with its 95 % interval over seeds and subjects; small: each seed.", "Dice",
    )  # fmt: skip


def served(network: Network) -> Section:
    """A section on how well each method outlines each group."""
    tables = [*(_served(network, structure) for structure in network.structures), _changes(network)]
    return Section(
        f"Who is outlined worse: {network.name}",
        (
            "Every image has a Dice for each structure; the Dice of a group is the mean over its images. Equity-scaled Dice divides the Dice of "
            "everyone by 1 + the sum, over groups, of the distance between the Dice of the group and the Dice of everyone.",
        ),
        (_figure(network),),
        tables,
        headline=_headline(network),
    )  # fmt: skip


def _headline(network: Network) -> str | None:
    """Says how far groups are apart under ERM, and what each form of FEBS does to the worst group."""
    structure = network.structures[0]
    gap = network.methods[structure].get(_ERM)
    if gap is None:
        return None
    spread = gap.disparities[network.group]["max_min:mean"]
    text = f"{network.name}: under ERM the Dice of the {structure} differs by {number(spread.value)} ({interval(spread.low, spread.high)}) between groups of {network.group}."
    worst = {c.first: c for c in network.contrasts[structure] if c.score == "worst_group:mean"}
    moves = [
        f"{_title(name)} moves the worst group by {number(worst[name].value, 3, True)} ({interval(worst[name].low, worst[name].high, 3, True)})"
        for name in gradients.FORMS
        if name in worst
    ]
    return f"{text} {'; '.join(moves)}." if moves else text


def scaling(network: Network, kept: Sequence[KeptGradient]) -> Section:
    """A section on what FEBS does to the gradient of each group."""
    rows = [
        (text_cell(_title(k.form)), text_cell(k.group), Cell(number(k.loss)), Cell(number(k.ratio), note=f"SD of log {number(k.sd, 2)}"),
         Cell(str(k.num_batches)))
        for k in kept
    ]  # fmt: skip
    hardest = max(kept, key=lambda k: k.loss).group
    by = {k.form: k.ratio for k in kept if k.group == hardest}
    headline = (
        f"{network.name}: in the hardest group ({hardest}) Dice keeps {number(by['febs_released'], 2)} of its gradient under FEBS as released, and "
        f"{number(by['febs_intent'], 2)} under FEBS as intended."
    )
    text = (
        "FEBS as released multiplies the probabilities of a group by tanh((min L / L)^gamma). This factor is smallest where the loss is largest, "
        "so that the hardest group is learnt least; the text of the paper asks for the opposite. A ratio compares the norms of two gradients "
        "in the logits of the group: that of FEBS, and that of Dice of the whole batch, both at the model that ERM trained.",
    )  # fmt: skip
    header = ("form", network.group, "Dice loss", "gradient kept", "batches")
    return Section(
        f"What FEBS does to gradients: {network.name}",
        text,
        (),
        (ReportTable(header, rows),),
        headline=headline,
    )


def _metadata(network: Network, data_dir: pathlib.Path) -> Mapping[str, Any]:
    """The metadata of the cohort that a network was trained on."""
    config = run_config.load(network.erm)
    return data.open_split(config.data.cohort, config.data.train_split, data_dir).metadata


def _csv(networks: Sequence[Network]) -> str:
    """Dice of everyone and of every group, one line for each network, method and structure."""
    rows = []
    for network in networks:
        for structure, methods in network.methods.items():
            for method, scores in methods.items():
                cells = {"": scores.overall} | scores.groups[network.group]
                for level, values in cells.items():
                    estimate = values["mean"].estimate
                    low, high = estimate.limits(frame.CONFIDENCE)
                    rows.append(
                        {"model": network.name, "method": method, "structure": structure, network.group: level, "dice": estimate.value,
                         "low": low, "high": high, "n": estimate.n, "seeds": len(scores.runs)}
                    )  # fmt: skip
    return files.safe_csv(pd.DataFrame(rows))


def write(folder: pathlib.Path, data_dir: pathlib.Path) -> list[pathlib.Path]:
    """Writes ``folder/report``: ``report.html``, ``dice.csv`` and ``figures/``.

    Args:
      folder: the study's folder.
      data_dir: where its cohort is prepared.

    Returns:
      The files written.
    """
    networks, left_out = gather(folder)
    sections, keys = [], []
    for network in networks:
        kept = gradients.measure(network.erm, data_dir, network.group)
        sections += [served(network), scaling(network, kept)]
        for structure in network.structures:
            scores = network.methods[structure].get(_ERM)
            if scores:
                name = f"Dice of the {structure}, {network.name}, ERM"
                keys.append(pages.key_number(name, scores.overall["mean"].estimate))
    difficulty = analysis.difficulty(_metadata(networks[0], data_dir))
    sections += [*([difficulty] if difficulty else []), *pages.left_out(left_out)]
    title = "FairSeg: who is outlined worse, and what helps"
    return pages.write(folder, title, sections, keys, {"dice.csv": _csv(networks)})
