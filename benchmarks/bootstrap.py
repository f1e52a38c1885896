"""Our bootstrap over patients against fairlearn's MetricFrame, and alone on a large table.

    python benchmarks/bootstrap.py [--rounds=5] [--quick]

First 20,000 rows in 6 groups, 1,000 replicates, one image per patient (fairlearn knows no patients): four threshold metrics
in one call, then the AUROC, each with percentile intervals of every group. fairlearn draws 20 replicates; its time for
1,000 is extrapolated from their cost. Then, alone and in a process of its own, 200,000 rows of 100,000 patients in 20
groups, 10,000 replicates of 12 metrics, with the gaps of all groups to the first: time and peak memory; and what the extremes of
the 20 AUROCs and accuracies cost beyond those estimates. Ours is timed from the plain columns to the limits; compiling happens
once per process and is printed apart. The closing line is the AUROC's.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # as a program: the project is above

from benchmarks import common
from equipoise.engine.metrics.estimates import comparisons, intervals
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.frames import disparities
from equipoise.engine.metrics.resampling import bootstrap as resample

try:
    import fairlearn.metrics as peer
    from sklearn import metrics as scores
except ImportError:
    peer = None

ROWS, GROUPS, REPLICATES, PEER_REPLICATES = 20_000, 6, 1_000, 20
THRESHOLD = ("sensitivity", "specificity", "accuracy", "ppv")
LARGE = (*THRESHOLD, "fpr", "fnr", "npv", "f1", "balanced_accuracy", "brier", "log_loss", "auroc")
TAILS = (0.025, 0.975)


def make_table(rows: int, groups: int, images: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """(truth, score and decision of each row; its subject; its group)."""
    rng = np.random.default_rng(0)
    subject = np.arange(rows) // images
    truth = rng.random(rows) < 0.3
    score = 1 / (1 + np.exp(-(1.5 * truth - 1 + rng.normal(size=rows))))
    group = rng.integers(0, groups, subject[-1] + 1)[subject]
    return {"truth": truth, "score": score, "called": score >= 0.5}, subject, group


def ours(table: tuple, groups: int, metrics: tuple[str, ...], replicates: int) -> np.ndarray:
    """Limits [metrics, sets and gaps, 2] of everyone, of every group, and of every group's gap to the first."""
    columns, subject, group = table
    code, patients = intervals.subject_codes(subject)
    columns = columns | registry.components(columns)
    sets = [(np.zeros(len(code), np.int64), 1), (group, groups)]
    drawn = resample.Bootstrap({"model": columns}, metrics, code, patients, sets, replicates)
    limits = []
    for name in metrics:
        found = drawn.replicates["model", name]
        limits.append(np.nanquantile(np.concatenate([found, found[2:] - found[1]]), TAILS, axis=1).T)
    return np.stack(limits)


def extremes(table: tuple, groups: int, replicates: int) -> tuple[float, float]:
    """(seconds of the AUROC and accuracy of everyone and every group; of the intervals and chance values of their extremes)."""
    columns, subject, group = table
    code, patients = intervals.subject_codes(subject)
    columns = columns | registry.components(columns)
    drawn = resample.Bootstrap(
        {"model": columns}, ("auroc", "accuracy"), code, patients, [(group, groups)], replicates
    )
    start = time.perf_counter()
    sets = [np.arange(len(code)), *(np.flatnonzero(group == g) for g in range(groups))]
    found = {
        "auroc": [
            intervals.area(columns["truth"][rows], columns["score"][rows], code[rows]) for rows in sets
        ],
        "accuracy": [intervals.proportion(columns["correct"][rows] > 0, code[rows]) for rows in sets],
    }
    middle = time.perf_counter()
    for name, (overall, *estimates) in found.items():
        cells, own = (dict(enumerate(parts)) for parts in (estimates, drawn.replicates["model", name]))
        disparities.extremes(registry.get(name), cells, own)
        comparisons.equity_scaled_sum(overall, estimates)
        comparisons.equity_scaled_sd(overall, estimates)
    return middle - start, time.perf_counter() - middle


def theirs(table: tuple, metrics: tuple[str, ...], replicates: int | None) -> object:
    """A MetricFrame with as many bootstrap replicates, or without."""
    columns, _, group = table
    known = {
        "sensitivity": peer.true_positive_rate,
        "specificity": peer.true_negative_rate,
        "accuracy": scores.accuracy_score,
        "ppv": scores.precision_score,
        "auroc": scores.roc_auc_score,
    }
    return peer.MetricFrame(
        metrics={name: known[name] for name in metrics},
        y_true=columns["truth"].astype(int),
        y_pred=columns["score"] if metrics == ("auroc",) else columns["called"].astype(int),
        sensitive_features=group,
        **(
            {}
            if replicates is None
            else {"n_boot": replicates, "ci_quantiles": list(TAILS), "random_state": 0}
        ),
    )


def seconds(call, rounds: int) -> tuple[float, float]:
    """(first, least of the others)."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:])


def compare(title: str, table: tuple, metrics: tuple[str, ...], rounds: int) -> tuple[float, float]:
    """Prints a row; returns (our seconds, theirs)."""
    first, own = seconds(lambda: ours(table, GROUPS, metrics, REPLICATES), rounds)
    compile_time = max(first - own, 0.0)
    if peer is None:
        print(f"{title:28s} {own * 1e3:10.1f} {'-':>12s} {'-':>8s} {compile_time:9.2f}")
        return own, float("nan")
    _, plain = seconds(lambda: theirs(table, metrics, None), 1)
    _, some = seconds(lambda: theirs(table, metrics, PEER_REPLICATES), 1)
    other = plain + (some - plain) / PEER_REPLICATES * REPLICATES
    print(
        f"{title:28s} {own * 1e3:10.1f} {other * 1e3:12.0f} {other / own:8.0f} {compile_time:9.2f}",
        flush=True,
    )
    return own, other


def large() -> None:
    """Prints time and peak memory of the large table."""
    rows, groups, replicates = 200_000, 20, 10_000
    ours(make_table(1_000, groups, 2), groups, LARGE, 128)  # compiles
    table = make_table(rows, groups, 2)
    before, start = common.load(), time.perf_counter()
    limits = ours(table, groups, LARGE, replicates)
    spent = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    print(
        f"{rows:,} rows of {rows // 2:,} patients, {groups} groups, {len(LARGE)} metrics, {replicates:,} replicates:"
    )
    print(
        f"  {spent:.1f} s, peak {peak:.2f} GiB, {np.isfinite(limits).all(axis=2).sum()} intervals with gaps ({before})"
    )
    base, more = extremes(table, groups, replicates)
    print(
        f"  AUROC and accuracy of everyone and {groups} groups {base:.2f} s; worst group, ranges, ratio, SD and equity-scaled scores "
        f"of both with intervals and what chance gives {more:.2f} s more"
    )


def main() -> None:
    """Prints a table and the closing line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without the large table")
    parser.add_argument("--large", action="store_true", help="the large table alone, in this process")
    args = parser.parse_args()
    if args.large:
        large()
        return
    print(f"{common.machine()}; {common.load()}")
    if peer is None:
        print("fairlearn is not installed (extra [bench]): ours alone, without a closing line")
    print(f"{ROWS:,} rows, {GROUPS} groups, {REPLICATES:,} replicates")
    print(f"{'milliseconds':28s} {'ours':>10s} {'fairlearn':>12s} {'ratio':>8s} {'compile s':>9s}")
    table = make_table(ROWS, GROUPS, 1)
    compare("four threshold metrics", table, THRESHOLD, args.rounds)
    own, other = compare("AUROC", table, ("auroc",), args.rounds)
    if not args.quick:
        subprocess.run([sys.executable, __file__, "--large"], check=True)
    print(common.load())
    if peer is not None:
        common.report("bootstrap: AUROC of 6 groups vs fairlearn MetricFrame", own, other, "seconds")


if __name__ == "__main__":
    main()
