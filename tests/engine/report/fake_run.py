"""A finished run without training: scores of an ideal classifier that uses the shortcut, tiny volumes, made-up curves."""

import json
import types

import numpy as np
import pandas as pd

from equipoise.engine import config, rundir
from equipoise.engine.metrics.table.table import Schema, write_table
from equipoise.engine.transforms.masks import encode_labels, encode_mask

COHORT, STEP = "simba/near_4mm", 600
SCHEMA = Schema(
    "classification", "disease", ("absent", "present"), "present",
    {"bias": ["without", "with", "unknown"], "disease_score": None},
)  # fmt: skip


def predictions(
    n: int, seed: int, *, flip: bool = False, lean: float = 1.0, gamma: float = 0.7, alpha: float = 0.3
) -> pd.DataFrame:
    """Scores of a classifier that knows d and adds ``lean`` times the log odds of its bias group."""
    generator = np.random.default_rng(seed)
    sick = generator.random(n) < 0.5
    biased = generator.random(n) < np.where(sick, gamma, alpha)
    d = generator.normal(np.where(sick, 1, -1))
    biased = biased ^ flip
    logit = 2 * d + lean * np.where(biased, np.log(gamma / alpha), np.log((1 - gamma) / (1 - alpha)))
    return pd.DataFrame(
        {
            "scan_id": [f"scan-{i:05d}-{'flip' if flip else 'fact'}" for i in range(n)],
            "subject_id": [f"person-{i:05d}" for i in range(n)],
            "cohort": COHORT + ("_counterfactual" if flip else ""),
            "split": "test",
            "target": sick.astype(int),
            "score": 1 / (1 + np.exp(-logit)),
            "threshold": 0.5,
            "threshold_split": "fixed",
            "checkpoint_step": STEP,
            "checkpoint_fingerprint": "0123456789ab-600",
            "config_fingerprint": "0123456789ab",
            "bias": np.where(biased, "with", "without"),
            "disease_score": d,
        }
    )


def history() -> list[dict]:
    """Losses that fall, validation metrics that rise and then sag."""
    rows = []
    for step in range(10, 701, 10):
        rows.append(
            {"step": step, "split": "train", "loss": 0.35 + 0.4 * np.exp(-step / 120) + 0.03 * np.sin(step)}
        )
        if step % 100 == 0:
            best = 0.92 - abs(step - STEP) / 4000
            rows.append(
                {
                    "step": step,
                    "split": "validation",
                    "loss": 0.42 + abs(step - STEP) / 3000,
                    "auroc": best,
                    "accuracy": best - 0.07,
                }
            )
    return rows


def volumes() -> tuple[dict, dict]:
    """(saliency arrays, regions and label map as metadata) on a grid of 20 x 24 x 20: a ball with two small regions."""
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in (20, 24, 20)), indexing="ij"))
    ball = lambda centre, radius: ((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) < radius**2  # noqa: E731
    brain, disease, bias = ball((9.5, 11.5, 9.5), 8.5), ball((14, 13, 10), 2.3), ball((12, 9, 10), 1.9)
    beside = ball((5, 12, 10), 2.0)
    noise = np.random.default_rng(0).random(brain.shape)
    template = (brain * (0.6 + 0.4 * noise) - 0.5).astype(np.float32)
    arrays = {"template": template, "attribute": np.str_("bias")}
    for target in ("absent", "present"):
        for level, weight in (("without", 0.4), ("with", 0.7)):
            shown = 0.1 * noise * brain + 0.6 * disease + weight * bias + 0.25 * beside
            arrays[f"mean_{target}_{level}"] = shown.astype(np.float32)
            arrays[f"count_{target}_{level}"] = np.int32(10)
    labels = np.where(brain, 1 + (grid[0] // 5) * 4 + grid[1] // 6, 0)
    labels[disease], labels[bias], labels[beside] = 75, 78, 30
    names = {"75": "right insula", "78": "right putamen", "79": "lost in the grid"}
    return arrays, {
        "regions": {"disease": encode_mask(disease), "bias": encode_mask(bias)},
        "label_map": {"labels": encode_labels(labels), "names": names, "marked": {"disease": 75, "bias": 78}},
    }


def cohort_report(n: int) -> dict:
    """Counts as the builder writes them, with two skipped scans."""
    half = {
        "scans": n,
        "subjects": n,
        "labels": {"disease": {"absent": n // 2, "present": n - n // 2}},
        "attributes": {"bias": {"with": n // 2, "without": n - n // 2}},
    }
    skipped = [
        {"scan_id": "scan-77777", "reason": "data are truncated or damaged (EOFError)"},
        {"scan_id": "scan-77778", "reason": "cannot read /home/clinic/scan-77778.nii"},
    ]
    counts = dict.fromkeys(("train", "validation", "test"), half)
    return {
        "cohort": "simba",
        "version": "1.0.0",
        "counts": counts,
        "skipped": skipped,
        "skipped_total": 2,
        "built": {"numpy": "2"},
    }


def make(workdir, data_dir, n: int = 600, *, counterfactual: bool = True, lean: float = 1.0):
    """Writes the run; returns what ``equipoise.engine.data.open_builder`` would give for its cohort."""
    run = config.Run()
    run.data.cohort, run.task.label = COHORT, "disease"
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config.to_dict(run)))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history()))
    for flip in (False, True)[: 1 + counterfactual]:
        frame = predictions(n, 1, flip=flip, lean=lean)
        write_table(rundir.RunFolder(workdir).evaluation(frame["cohort"][0], "test", STEP), frame, SCHEMA)
    arrays, planted = volumes()
    path = rundir.RunFolder(workdir).saliency(COHORT, STEP)
    path.parent.mkdir(parents=True)
    np.savez(path, **arrays)
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "cohort_report.json").write_text(json.dumps(cohort_report(n)))
    design = {"scenario": "near", "bias_in_disease": 0.7, "bias_in_healthy": 0.3, "prevalence": 0.5}
    names = {"disease": "right insula", "bias": "right putamen"}
    metadata = {**planted, "region_names": names, "design": design}
    return types.SimpleNamespace(info=types.SimpleNamespace(metadata=metadata), data_path=data_dir)
