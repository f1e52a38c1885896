"""Finished runs without training: methods of known quality, seeds that matter, patients with several images."""

import json

import numpy as np
import pandas as pd

from equipoise.engine import config, rundir
from equipoise.engine.metrics.table.table import Schema, write_table

COHORT, STEP = "clinic", 50
SCHEMA = Schema(
    "classification", "disease", ("absent", "present"), "present",
    {"sex": ["F", "M", "unknown"], "race": ["A", "B", "C"], "age": None},
)  # fmt: skip
METHODS = {"cnn": 1.0, "sfcn": 1.4}


def images(n: int, seed: int = 0) -> pd.DataFrame:
    """Images of n patients, one to three each, with the truth and a latent score."""
    generator = np.random.default_rng(seed)
    per = generator.integers(1, 4, n)
    who = np.repeat(np.arange(n), per)
    sick = (generator.random(n) < 0.4)[who]
    patient = generator.normal(0, 0.7, n)[who]
    return pd.DataFrame(
        {
            "scan_id": [f"scan-{i:06d}" for i in range(len(who))], "subject_id": [f"person-{i:05d}" for i in who],
            "target": sick.astype(int), "latent": patient + generator.normal(0, 0.7, len(who)),
            "sex": generator.choice(["F", "M"], n)[who], "race": generator.choice(["A", "B", "C"], n, p=[0.6, 0.3, 0.1])[who],
            "age": generator.normal(60, 10, n)[who],
        }
    )  # fmt: skip


def predictions(frame: pd.DataFrame, quality: float, seed: int) -> pd.DataFrame:
    """Scores of a run: its quality moves with the seed, and each image has its own noise in each run."""
    generator = np.random.default_rng([seed, int(1000 * quality)])
    effect = quality + generator.normal(0, 0.08)
    worse = np.where(frame["race"] == "C", 0.5, 0)
    logit = (
        (effect - worse) * (2 * frame["target"] - 1) + frame["latent"] + generator.normal(0, 0.4, len(frame))
    )
    return frame.drop(columns="latent").assign(
        cohort=COHORT, split="test", score=1 / (1 + np.exp(-logit)), threshold=0.5, threshold_split="fixed", checkpoint_step=STEP,
        checkpoint_fingerprint="0123456789ab-50", config_fingerprint="0123456789ab",
    )  # fmt: skip


def make(folder, frame: pd.DataFrame, seed: int, quality: float = 1.0, *, step: int = STEP, **changes):
    """Writes one run, trained to ``step`` of 50; ``changes`` are dotted fields of its configuration."""
    run = config.Run(seed=seed, num_steps=STEP)
    run.data.cohort, run.task.label = COHORT, "disease"
    run = config.replaced(run, **changes)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(run)))
    row = {"step": step, "split": "validation", "loss": 0.4, "auroc": 0.9}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    if step:
        write_table(
            rundir.RunFolder(folder).evaluation(COHORT, "test", step),
            predictions(frame, quality, seed),
            SCHEMA,
        )


def make_all(root, n: int = 150, seeds: int = 4):
    """Two methods by seeds."""
    frame = images(n)
    for name, quality in METHODS.items():
        for seed in range(seeds):
            make(root / f"{name}_{seed}", frame, seed, quality, **{"model.name": name})
    return frame
