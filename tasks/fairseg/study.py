"""FairSeg: who is outlined worse, and what scaling the loss by group does about it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from equipoise.data_builders.fundus_phantom.config import SETTINGS, make_config
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.tasks.kit.plan import Chain, Plan, Stage, over_seeds, train_words

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
_WEIGHTS = {"samed": "sam", "transunet": "vit"}  # run -> the option that names its published weights


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Options with their defaults: the study's own, and those of the cohort."""

    group: str
    seeds: int
    steps: int | None
    cohort: Mapping[str, Any]


def _read(size: str, options: Mapping[str, Any]) -> _Asked:
    usual = {"group": "race", "seeds": 3, "steps": None}
    own = {f.name for f in SETTINGS} if size == "demo" else {"source_dir", *_WEIGHTS.values()}
    known = {*usual, *own}
    for name in options:
        if name not in known:
            raise UserError(
                f"--options: fairseg has no {name!r} at size {size}.{did_you_mean(name, known)} It has: {OPTIONS}"
            )
    asked = usual | {k: v for k, v in options.items() if k in usual}
    for name in ("seeds", "steps"):
        if asked[name] is not None and not (type(asked[name]) is int and asked[name] > 0):
            raise UserError(f"--options: {name}={asked[name]} must be a whole number above 0")
    return _Asked(**asked, cohort={k: v for k, v in options.items() if k in own})


def _cohort(size: str, asked: _Asked) -> tuple[str, tuple[str, ...]]:
    """Name of the cohort, and the command that prepares it."""
    if size == "paper":
        source = asked.cohort.get("source_dir")
        more = (f"--source_dir={source}",) if source else ()
        return "harvard_fairseg/slo", ("prepare", "--cohort=harvard_fairseg/slo", *more)
    settings = {"subjects": 2000} | dict(asked.cohort)
    options = ",".join(f"{k}={v}" for k, v in settings.items())
    name = f"fundus_phantom/{make_config('demo', **settings).name}"
    return name, ("prepare", "--cohort=fundus_phantom/demo", f"--options={options}")


def _method_words(method: str, group: str, steps: int) -> tuple[str, ...]:
    """Flags of a method. FEBS tunes what two thirds of the updates have trained, as in the study it follows training."""
    if method == "erm":
        return ()
    words = (f"--config.method.name={method}", f"--config.method.group={group}")
    return (
        (*words, f"--config.method.pretrain_steps={2 * steps // 3}") if method.startswith("febs") else words
    )


def plan(size: str, folder: pathlib.Path, options: Mapping[str, Any]) -> Plan:
    """The cohort, then every model under every method, then what is made of them.

    Args:
      size: of :data:`SIZES`.
      folder: of the study.
      options: of :data:`OPTIONS`.

    Raises:
      UserError: for an option that does not exist or has another kind of value.
    """
    from equipoise.tasks.fairseg import runs

    asked = _read(size, options)
    cohort, prepare = _cohort(size, asked)

    def train(model: str, method: str) -> list[Chain]:
        name = f"{model}-{method}"
        steps = asked.steps or runs.get_config(model).num_steps
        every = max(steps // 6, 1)
        words = [f"--config=fairseg:{model}", f"--config.data.cohort={cohort}"]
        if asked.steps:
            rhythm = (f"--config.{what}.every_steps={every}" for what in ("evaluation", "checkpoint"))
            words += [f"--config.num_steps={steps}", f"--config.optimizer.decay_steps={steps}", *rhythm]
        weights = asked.cohort.get(_WEIGHTS.get(model, ""))
        words += [f"--config.model.weights={weights}"] if weights else []
        words += _method_words(method, asked.group, steps)

        def stages(place: pathlib.Path, first: pathlib.Path | None, seeds: str) -> tuple[Stage, ...]:
            where = f"--workdir={place}"
            judged = (f"--cohort={cohort}", "--split=test", "--step=last")
            found = [
                Stage(f"train {name}", train_words(*words, seeds, where)),
                Stage(f"score {name}", ("evaluate", where, *judged)),
            ]
            if first and method == "erm":
                found.append(
                    Stage(f"report the first seed of {name}", ("report", f"--workdir={first}", *judged))
                )
            return tuple(found)

        return over_seeds(name, folder / "runs" / name, asked.seeds, size == "demo", stages)

    trained = [chain for model in _MODELS[size] for method in METHODS for chain in train(model, method)]
    page = ("study", "--study=fairseg", f"--workdir={folder}", "--report_only")
    last = Stage("put everything on one page", page, is_repeated=True)
    return [[Chain("prepare", (Stage(f"prepare {cohort}", prepare),))], trained, [Chain("report", (last,))]]


def write(folder: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
    """The study's page, of the runs in its folder and the cohort in ``data_dir``; returns its file."""
    from equipoise.tasks.fairseg import summary

    return summary.write(folder, data_dir)[0]
