"""Where a run's folder keeps what, and what a table says of where its numbers come from."""

import pathlib

import pandas as pd

from equipoise.engine.config import Run, fingerprint


def stamp(
    frame: pd.DataFrame, config: Run, step: int, threshold: float, threshold_split: str
) -> pd.DataFrame:
    """Adds where the numbers come from: threshold and the split it was chosen on, checkpoint, fingerprints."""
    mark = fingerprint(config)
    where = 1 + max(
        i for i, c in enumerate(frame.columns) if c in ("split", "target") or c.startswith("score")
    )
    stamped = frame.copy()
    provenance = {
        "threshold": threshold,
        "threshold_split": threshold_split,
        "checkpoint_step": step,
        "checkpoint_fingerprint": f"{mark}-{step}",
        "config_fingerprint": mark,
    }
    for offset, (name, value) in enumerate(provenance.items()):
        stamped.insert(where + offset, name, value)
    return stamped


def table_path(workdir: pathlib.Path, cohort: str, split: str, step: int) -> pathlib.Path:
    """Where ``equipoise.launch.evaluate`` keeps the predictions of one checkpoint on one split."""
    return workdir / "evaluations" / cohort.replace("/", "--") / split / f"{step:08d}.parquet"


def saliency_path(workdir: pathlib.Path, cohort: str, step: int) -> pathlib.Path:
    """Where ``equipoise.launch.evaluate --saliency`` keeps mean maps."""
    return workdir / "saliency" / cohort.replace("/", "--") / f"{step:08d}.npz"


def validation_path(workdir: pathlib.Path, step: int) -> pathlib.Path:
    """Where training keeps the validation predictions of one evaluation."""
    return workdir / "validation" / f"{step:08d}.parquet"
