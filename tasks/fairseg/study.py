"""FairSeg: who is outlined worse, and what it helps to scale the loss by group."""

import pathlib
from collections.abc import Mapping
from typing import Any

from equipoise.data_builders.fundus_phantom.config import SETTINGS, make_config
from equipoise.tasks.kit import options as kit_options
from equipoise.tasks.kit.plan import (
    Job,
    Plan,
    Stage,
    over_seeds,
    page_stage,
    prepare_words,
    report_stage,
    rhythm,
    train_and_score,
)

SIZES = {
    "demo": "6 methods by 3 seeds of a small U-Net on drawn images of 64 pixels; about 12 minutes on 2 CPU cores",
    "paper": "6 methods by 3 seeds of U-Net, SAMed and TransUNet on Harvard-FairSeg, a job for each seed; for GPUs",
}
OPTIONS = (
    "group=race, seeds=3, steps=N; demo: every setting of fundus_phantom (subjects=2000, contrast_black=0.5, ...); "
    "paper: source_dir=FOLDER, sam=sam_vit_b_01ec64.pth, vit=ViT-B_16.npz"
)
METHODS = ("erm", "febs_released", "febs_intent", "group_dro", "resampling", "reweighing")
_MODELS = {"demo": ("phantom",), "paper": ("unet", "samed", "transunet")}
_WEIGHTS = {"samed": "sam", "transunet": "vit"}  # run -> the option with the file of its published weights


def _read(size: str, given: Mapping[str, Any]) -> tuple[str, int, int | None, dict[str, Any]]:
    """(group, seeds, steps, settings of the cohort and files of weights)."""
    own = {"group": "race", "seeds": kit_options.Count(3), "steps": kit_options.Count(None)}
    others = {f.name for f in SETTINGS} if size == "demo" else {"source_dir", *_WEIGHTS.values()}
    values, settings = kit_options.read(f"fairseg at size {size}", given, own, others, OPTIONS)
    return *values.values(), settings


def _cohort(size: str, settings: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(name of the cohort, the command that prepares it)."""
    if size == "paper":
        source = settings.get("source_dir")
        more = (f"--source_dir={source}",) if source else ()
        return "harvard_fairseg/slo", prepare_words("harvard_fairseg/slo", {}, *more)
    settings = {"subjects": 2000} | dict(settings)
    name = f"fundus_phantom/{make_config('demo', **settings).name}"
    return name, prepare_words("fundus_phantom/demo", settings)


def _method_words(method: str, group: str, steps: int) -> tuple[str, ...]:
    """Flags of a method. FEBS starts after two thirds of the updates, since the published method tunes a trained model."""
    if method == "erm":
        return ()
    words = (f"--config.method.name={method}", f"--config.method.group={group}")
    return (
        (*words, f"--config.method.pretrain_steps={2 * steps // 3}") if method.startswith("febs") else words
    )


def plan(size: str, folder: pathlib.Path, options: Mapping[str, Any]) -> Plan:
    """Plans the study: the cohort, then every model under every method, then the page.

    Args:
      size: a key of :data:`SIZES`.
      folder: the study's folder.
      options: name -> value, as :data:`OPTIONS` lists them.

    Raises:
      UserError: for an unknown option, or one with a wrong value.
    """
    from equipoise.tasks.fairseg import runs

    group, num_seeds, fixed_steps, settings = _read(size, options)
    cohort, prepare = _cohort(size, settings)

    def train(model: str, method: str) -> list[Job]:
        name = f"{model}-{method}"
        steps = fixed_steps or runs.get_config(model).num_steps
        words = [f"--config=fairseg:{model}", f"--config.data.cohort={cohort}"]
        if fixed_steps:
            words += [f"--config.num_steps={steps}", f"--config.optimizer.decay_steps={steps}"]
            words += rhythm("steps", max(steps // 6, 1))
        weights = settings.get(_WEIGHTS.get(model, ""))
        words += [f"--config.model.weights={weights}"] if weights else []
        words += _method_words(method, group, steps)

        def stages(place: pathlib.Path, first: pathlib.Path | None, seeds: str) -> tuple[Stage, ...]:
            work = train_and_score(name, words, place, seeds, [cohort], "last")
            if first and method == "erm":
                work.append(report_stage(name, first, cohort, "last"))
            return tuple(work)

        return over_seeds(name, folder / "runs" / name, num_seeds, size == "demo", stages)

    trained = [job for model in _MODELS[size] for method in METHODS for job in train(model, method)]
    return [
        [Job("prepare", (Stage(f"prepare {cohort}", prepare),))],
        trained,
        [Job("report", (page_stage("fairseg", folder),))],
    ]


def write(folder: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
    """Writes the study's page from the runs in its folder and the cohort in ``data_dir``; returns the file."""
    from equipoise.tasks.fairseg import summary

    return summary.write(folder, data_dir)[0]
