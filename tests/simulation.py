"""A simulation of how often the intervals of the metric library hold the truth, and how often its tests reject it.

    python -m tests.simulation [--datasets=2000] [--patients=500,1500] [--scenarios=equal,one_worse] [--store=FOLDER]

Patients have one to four images that agree with each other, in six groups of 40 % down to 4 %. Every data set goes through the library as
a user's table does, with 1,000 replicates of the bootstrap. For each quantity the printed Markdown has the share of 95 % intervals that hold
the true value and the shares that lie wholly above and below it. Beside the library's intervals of extremes it has plain bootstrap
intervals, which the library refuses, to show why.

The program can be stopped: data sets are numbered, each has its own seed, and ``--store`` keeps those that are done. It ends
with 1 if a limit of :func:`failures` is broken.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import tqdm

from equipoise.engine.metrics.estimates import comparisons, intervals, percentiles
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.frames.cells import Cells, Rows
from equipoise.engine.metrics.resampling import bootstrap as resample
from equipoise.engine.metrics.table.groupings import Grouping, grouping
from equipoise.engine.metrics.table.table import Table
from tests.population import (
    EXTREME_OF,
    EXTREMES,
    GAPS,
    LEVELS,
    METRICS,
    PAIRS,
    SCENARIOS,
    SCHEMA,
    SHARES,
    WORSE,
    SimulatedPopulation,
    population,
    truths,
)  # fmt: skip

REPLICATES = 1000
CHUNK = 50  # data sets per stored file
ENOUGH = 2000  # data sets of a full simulation
CHANCE = (
    *(f"{kind}:{metric}" for metric in EXTREME_OF for kind in ("worst_group", "max_min", "sd")),
    *("equity_scaled_sum:auroc", "equity_scaled_sd:auroc"),
)


def analyse(table: Table, seed: int) -> tuple[dict[str, tuple[float, float, float]], dict[str, float]]:
    """Analyses one data set: ({quantity · interval: (value, low, high)}, {name: p of a test, or a number to average})."""
    rows = Rows(table)
    columns = rows.columns(None)
    everyone = Grouping("", "", [""], [""], np.zeros(len(rows.frame), np.int64), {}, np.ones(1, bool))
    groups = dataclasses.replace(grouping(rows.frame, SCHEMA, "group", ()), first=1)
    sets = [(everyone.code, 1), (groups.code, len(LEVELS))]
    bootstrap = resample.Bootstrap(
        {None: columns}, METRICS, rows.code, rows.num_subjects, sets, REPLICATES, seed
    )
    cells = Cells(rows, None, {name: registry.get(name) for name in METRICS}, columns, bootstrap, bca=False)
    overall, levels = cells.of(everyone)[""], cells.of(groups)
    compared = cells.compare(groups, levels, {"": 0}, {"": overall}, {"": 0}, {})
    limits = {name: (e.value, *e.limits(0.95)) for name, e in overall.items()}
    limits["sensitivity of 4 %"] = (
        levels["4%"]["sensitivity"].value,
        *levels["4%"]["sensitivity"].limits(0.95),
    )
    numbers: dict[str, float] = {}

    def take(name: str, key: str) -> None:
        """Adds a comparison of the frame."""
        disparity = compared[key]
        limits[name] = disparity.value, disparity.low, disparity.high

    for name, other in PAIRS.items():
        pair = f"{LEVELS[other]}-{LEVELS[0]}"
        for metric in GAPS:
            take(f"{metric}, {name} − 40 %", f"difference:{metric}:{pair}")
        take(f"sensitivity, {name} ÷ 40 %", f"ratio:sensitivity:{pair.replace('-', '/')}")
        take(f"xAUC, {name} − 40 %", f"xauc_disparity:auroc:{pair}")
    for metric in EXTREME_OF:
        for kind in ("worst_group", "max_min", "sd"):
            take(f"{kind}:{metric}", f"{kind}:{metric}")
        ends = [levels[level][metric] for level in LEVELS]
        limits[f"min_over_max:{metric}"] = comparisons.min_over_max(ends)
        limits[f"equity_scaled_sum:{metric}"] = comparisons.equity_scaled_sum(overall[metric], ends)
        limits[f"equity_scaled_sd:{metric}"] = comparisons.equity_scaled_sd(overall[metric], ends)
    take("worst_group:brier", "worst_group:brier")
    take("max_min:brier", "max_min:brier")
    positive, smallest = columns["truth"], groups.code == 5
    parts = [positive & smallest, positive & ~smallest]
    limits["sensitivity, 4 % − the rest"] = comparisons.difference(
        *(intervals.proportion(columns["called"][part], rows.code[part]) for part in parts)
    )
    limits |= _bootstrapped(bootstrap)
    for metric in (*GAPS, "xauc"):
        kind = "xauc_disparity:auroc" if metric == "xauc" else f"difference:{metric}"
        tests = {k: d.p_adjusted for k, d in compared.items() if k.startswith(f"{kind}:")}
        worse = [p for k, p in tests.items() if f":{LEVELS[WORSE]}-" in k]
        same = [p for k, p in tests.items() if f":{LEVELS[WORSE]}-" not in k]
        numbers[f"Holm, {metric}: 10 %"], numbers[f"Holm, {metric}: others"] = worse[0], np.fmin.reduce(same)
        if metric != "xauc":
            numbers[f"range, {metric}"] = compared[f"max_min:{metric}"].p
    for name in CHANCE:
        score = compared[name]
        numbers[f"{name}: value"], numbers[f"{name}: null mean"] = score.value, score.null_mean
        is_least = name.startswith(("worst", "equity"))
        numbers[f"{name}: beyond"] = (
            score.value < score.null_low if is_least else score.value > score.null_high
        )
    return limits, numbers


def _bootstrapped(bootstrap: resample.Bootstrap) -> dict[str, tuple[float, float, float]]:
    """Returns percentile and BCa limits of smooth quantities and of extremes, to stand beside the library's own."""
    limits = {}
    for metric in EXTREME_OF:
        key = None, metric
        values, replicates = bootstrap.values[key], bootstrap.replicates[key]
        left = [bootstrap.leave_one_out(key, number) for number in range(len(values))]
        left, count = np.stack([values_without for values_without, _ in left]), left[0][1]
        wanted = {metric: lambda overall, groups: overall}
        for name, other in PAIRS.items():
            wanted[f"{metric}, {name} − 40 %"] = lambda overall, groups, other=other: (
                groups[other] - groups[0]
            )
        wanted |= {f"{kind}:{metric}": of for kind, of in EXTREMES.items()}
        for name, of in wanted.items():
            value = float(of(values[0], values[1:]))
            drawn, without = of(replicates[0], replicates[1:]), of(left[0], left[1:])
            limits[f"{name} · percentile"] = value, *percentiles.limits_of(value, drawn)
            limits[f"{name} · BCa"] = value, *percentiles.limits_of(value, drawn, 0.95, (without, count))
    return limits


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of one scenario with one number of patients.

    Attributes:
      scenario: name of the scenario.
      patients: number of patients in each data set.
      limits: quantity · interval -> [datasets, 3] value and limits.
      numbers: name -> [datasets] p values, or numbers to average.
    """

    scenario: str
    patients: int
    limits: Mapping[str, np.ndarray]
    numbers: Mapping[str, np.ndarray]

    @property
    def datasets(self) -> int:
        """Number of data sets."""
        return len(next(iter(self.limits.values())))

    def coverage(self, name: str) -> tuple[float, float, float, int]:
        """Returns (share of intervals that hold the truth, share above it, share below it, data sets with an interval)."""
        truth = truths(self.scenario)[name.partition(" · ")[0]]
        value, low, high = self.limits[name].T
        known = ~np.isnan(value + low) & ~np.isnan(high)
        above, below = (low > truth + 1e-9)[known].mean(), (high < truth - 1e-9)[known].mean()
        return 1 - above - below, above, below, int(known.sum())

    def rejected(self) -> dict[str, float]:
        """Returns test -> share of data sets in which it rejects a true hypothesis at 5 %; of several levels any one counts."""
        rejected = {}
        for name, p in self.numbers.items():
            if name.startswith("Holm") and name.endswith("others"):
                both = (
                    np.fmin(p, self.numbers[name.replace("others", "10 %")])
                    if self.scenario == "equal"
                    else p
                )
                rejected[name.removesuffix(": others")] = float((both <= 0.05).mean())
            elif name.startswith("range") and self.scenario == "equal":
                rejected[name] = float((p <= 0.05).mean())
        return rejected


def _chunk(scenario: str, patients: int, datasets: range) -> dict[str, np.ndarray]:
    """Draws and analyses numbered data sets; returns ``limits/NAME`` and ``numbers/NAME``."""
    people, rows = population(scenario), []
    for number in datasets:
        place = SCENARIOS.index(scenario), patients, number
        table = people.draw(np.random.default_rng(np.random.SeedSequence(0, spawn_key=place)), patients)
        limits, numbers = analyse(table, number)
        rows.append(
            {f"limits/{k}": v for k, v in limits.items()} | {f"numbers/{k}": v for k, v in numbers.items()}
        )
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}


def simulate(scenario: str, patients: int, datasets: int, store: pathlib.Path | None = None) -> Result:
    """Draws and analyses data sets; a progress line goes to stderr.

    Args:
      scenario: one of :data:`SCENARIOS`.
      patients: number of patients in each data set.
      datasets: number of data sets.
      store: folder of the data sets that are already done, which receives the new ones too.
    """
    parts: list[Mapping[str, np.ndarray]] = []
    for start in tqdm.trange(0, datasets, CHUNK, desc=f"{scenario}, {patients} patients"):
        path = store / f"{scenario}-{patients}-{start}-{min(start + CHUNK, datasets)}.npz" if store else None
        if path and path.exists():
            with np.load(path) as kept:
                parts.append({name.replace("|", "/"): kept[name] for name in kept.files})
            continue
        parts.append(_chunk(scenario, patients, range(start, min(start + CHUNK, datasets))))
        if path:
            store.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp.npz")
            np.savez(temporary, **{name.replace("/", "|"): column for name, column in parts[-1].items()})
            temporary.replace(path)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    of = lambda kind: {k.removeprefix(f"{kind}/"): v for k, v in joined.items() if k.startswith(f"{kind}/")}  # noqa: E731
    return Result(scenario, patients, of("limits"), of("numbers"))


def power(metric: str, patients: int, datasets: int = ENOUGH) -> tuple[float, float]:
    """Returns (gap, share found) where the 25 % group is worse than the 40 % group by the detectable gap; power should be .80."""
    rng, gap = (
        np.random.default_rng(np.random.SeedSequence(1, spawn_key=(patients, EXTREME_OF.index(metric)))),
        0.1,
    )

    def estimates() -> list[intervals.Estimate]:
        """Draws a data set and estimates the metric in the two groups."""
        worse = tuple(0.85 - gap * (level == 1) for level in range(len(SHARES)))
        same = (0.85,) * len(SHARES)
        people = SimulatedPopulation(worse, same) if metric == "auroc" else SimulatedPopulation(same, worse)
        table = people.draw(rng, patients)
        columns, code = table.columns(), table.frame["subject_id"].to_numpy(np.int64)
        rows = [table.frame["group"] == LEVELS[level] for level in (0, 1)]
        if metric == "auroc":
            return [intervals.area(columns["truth"][r], columns["score"][r], code[r]) for r in rows]
        rows = [r & columns["truth"] for r in rows]
        return [intervals.proportion(columns["called"][r], code[r]) for r in rows]

    for _ in range(3):
        gap = float(np.mean([comparisons.detectable(*estimates()) for _ in range(1000)]))
    return gap, float(np.mean([comparisons.difference(*estimates())[1] > 0 for _ in range(datasets)]))


def demand(name: str) -> tuple[float, float, float] | None:
    """Returns the (least, greatest coverage, greatest tail) that an interval must have; None for those shown for comparison."""
    if " · " in name:
        return None
    is_small = "4 %" in name  # cells with few events
    if name.startswith("calibration_slope"):  # it is skewed, so that percentiles lean to one side
        return (0.92, 1.0, 1.0) if is_small else (0.93, 0.97, 0.06)
    if is_small or name.partition(":")[0] in EXTREMES:  # extremes are conservative by construction
        return 0.93, 1.0, 1.0
    return 0.93, 0.97, 0.04


def failures(results: list[Result], powers: Mapping[tuple[str, int], tuple[float, float]]) -> list[str]:
    """Returns a sentence for each result that misses its bound: coverage (:func:`demand`), tests above 6 %, power outside .80 ± .03.

    A result may miss its bound by two standard errors of the simulation.
    """
    sentences = []

    def check(what: str, share: float, least: float, greatest: float, n: int) -> None:
        """Adds a sentence if a share is out of its bounds."""
        slack = 2 * np.sqrt(0.05 * 0.95 / n)
        if not least - slack <= share <= greatest + slack:
            sentences.append(
                f"{what}: {100 * share:.1f} % of {n}; it must be within {100 * least:g} and {100 * greatest:g} %"
            )

    for result in results:
        where = f"{result.scenario}, {result.patients} patients"
        for name in result.limits:
            bounds = demand(name)
            if bounds:
                held, above, below, n = result.coverage(name)
                check(f"{where}: {name} holds", held, *bounds[:2], n)
                check(f"{where}: {name} above", above, 0, bounds[2], n)
                check(f"{where}: {name} below", below, 0, bounds[2], n)
        for name, share in result.rejected().items():
            check(f"{where}: {name} rejects", share, 0, 0.06, result.datasets)
    for (metric, patients), (gap, share) in powers.items():
        check(f"power at a {metric} gap of {gap:.3f}, {patients} patients", share, 0.77, 0.83, ENOUGH)
    return sentences


def markdown(results: list[Result], powers: Mapping[tuple[str, int], tuple[float, float]]) -> Iterator[str]:
    """Yields the tables of ``engine/metrics/README.md``, line by line."""
    heads = [f"{r.scenario.replace('_', ' ')}, {r.patients} ({r.datasets})" for r in results]

    def header(first: str) -> Iterator[str]:
        yield f"| {first} | {' | '.join(heads)} |"
        yield "|---" * (len(heads) + 1) + "|"

    def cell(result: Result, name: str) -> str:
        held, above, below, _ = result.coverage(name)
        return f"{100 * held:.1f} ({100 * above:.1f}, {100 * below:.1f})"

    yield from header("the library's intervals")
    for name in results[0].limits:
        if demand(name):
            yield f"| {name} | {' | '.join(cell(r, name) for r in results)} |"
    yield from ("", *header("bootstrap, percentile / BCa"))
    for name in results[0].limits:
        plain, _, kind = name.partition(" · ")
        if kind == "percentile":
            both = [
                [f"{100 * r.coverage(f'{plain} · {k}')[0]:.0f}" for k in ("percentile", "BCa")]
                for r in results
            ]
            yield f"| {plain} | {' | '.join(map(' / '.join, both))} |"
    yield from ("", *header("true hypotheses rejected at 5 %"))
    for name in results[0].rejected():
        shares = [r.rejected().get(name) for r in results]
        yield f"| {name} | {' | '.join('' if s is None else f'{100 * s:.1f}' for s in shares)} |"
    yield from ("", *header("true, read on average, by chance on average, beyond the band"))
    for name in CHANCE:
        parts = []
        for r in results:
            read, chance, beyond = (
                np.nanmean(r.numbers[f"{name}: {k}"]) for k in ("value", "null mean", "beyond")
            )
            parts.append(f"{truths(r.scenario)[name]:.3f}, {read:.3f}, {chance:.3f}, {100 * beyond:.1f} %")
        yield f"| {name} | {' | '.join(parts)} |"
    yield ""
    for (metric, patients), (gap, share) in powers.items():
        yield f"Power at the smallest detectable {metric} gap of two large groups, {patients} patients ({gap:.3f}): {share:.3f}"


def main() -> int:
    """Prints the tables; returns 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", default=str(ENOUGH), help="one number, or one for each of --patients")
    parser.add_argument("--patients", default="500,1500")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--store", type=pathlib.Path)
    args = parser.parse_args()
    sizes, counts = ([int(n) for n in text.split(",")] for text in (args.patients, args.datasets))
    counts *= len(sizes) if len(counts) == 1 else 1
    runs = [(name, *both) for both in zip(sizes, counts, strict=True) for name in args.scenarios.split(",")]
    results = [simulate(*run, args.store) for run in runs]
    powers = {(metric, size): power(metric, size) for size in sizes for metric in EXTREME_OF}
    print("\n".join(markdown(results, powers)))
    missed = failures(results, powers)
    print("", *(missed or ["Every bound holds."]), sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
