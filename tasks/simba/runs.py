"""SimBA runs: disease classification in synthetic brains, with and without a planted bias, and across many sites.

  equipoise prepare --cohort=simba/near_4mm
  equipoise train   --config=simba:near --workdir=runs/near
  equipoise train   --config=simba:near_paper --workdir=runs/near_paper    (1 mm and the study's network; for a GPU)
  equipoise train   --config=simba:near_sfcn --workdir=runs/near_sfcn      (2 mm and SFCN; for a GPU)
  equipoise train   --config=simba:sites --workdir=runs/sites               (83 sites, 8 mm)

`none`, `near`, `far`, `intensity`, `both` and `multi` differ in the cohort alone, and the cohorts differ in the bias effect alone:
subjects, splits, initial weights and batches are the same. Each also exists as `_paper` and `_sfcn`. `sites` (at 1 mm:
`sites_paper`) trains on the scans of 83 sites together; learning that leaves the scans at their sites is compared with it.

Cost: about 3 minutes each on 2 CPU cores, `sites` 2 minutes. What to expect: under `near`, test accuracy 0.82 (the best
possible without the shortcut: 0.84), and sensitivity 9 points higher when the bias is rendered into the same subjects; under
`sites`, accuracy 0.83 and AUROC 0.91 (the best possible: 0.84 and 0.92). The tables in tasks/simba/README.md have every figure.
"""

import math

from equipoise.engine.config import Run
from equipoise.engine.errors import did_you_mean

_SCENARIOS = ("none", "near", "far", "intensity", "both", "multi")
_KINDS = ("", "_paper", "_sfcn")
_SITES = "sites"


def names() -> list[str]:
    """Names of the runs. All scenarios also exist as ``SCENARIO_paper`` and ``SCENARIO_sfcn``."""
    return [*_SCENARIOS, "near_paper", "near_sfcn", _SITES, f"{_SITES}_paper"]


def get_config(name: str = "near") -> Run:
    """One scenario at 4 mm with a small network; ``SCENARIO_paper`` and ``SCENARIO_sfcn`` are larger, ``sites`` is at 8 mm, ``sites_paper`` at 1 mm.

    Raises:
      ValueError: for an unknown name, with those that there are.
    """
    known = [*(s + k for s in _SCENARIOS for k in _KINDS), _SITES, f"{_SITES}_paper"]
    if name not in known:
        raise ValueError(
            f"no run {name!r} in simba.{did_you_mean(name, known)} There are: {', '.join(known)}"
        )
    scenario, _, kind = name.partition("_")
    run = Run()
    run.seed = 0
    run.num_steps = 600
    run.data.cohort = f"simba/{scenario}_4mm"
    run.data.batch_size = 16
    run.data.eval_batch_size = 40
    run.data.preprocess = "minmax|rescale(offset=-0.5)"
    run.task.label = "disease"
    run.task.threshold = "fixed:0.5"  # the study compares argmax decisions
    run.model.name = "cnn"
    run.model.args = {"features": (8, 16, 32, 64), "head": "flatten"}
    run.optimizer.name = "adamw"
    run.optimizer.learning_rate = 1e-3
    run.optimizer.weight_decay = 1e-2
    run.optimizer.schedule = "cosine"
    run.optimizer.decay_steps = 600
    run.optimizer.warmup_steps = 20
    run.evaluation.every_steps = 100
    run.checkpoint.every_steps = 100
    run.checkpoint.best_metric = "loss"  # as in the study
    if scenario == _SITES:
        return {"": _sites, "paper": _sites_paper}[kind](run)
    return {"": lambda r: r, "paper": _paper, "sfcn": _sfcn}[kind](run)


def _sites(run: Run) -> Run:
    """All sites together, at 8 mm, where the brain fills 20 x 22 x 20 voxels; batches of 5, as at the sites."""
    run.data.cohort = "simba/sites_8mm"
    run.data.shape = (20, 22, 20)
    run.data.batch_size = 5
    run.model.args["padding"] = "SAME"
    run.optimizer.learning_rate = 3e-3
    run.num_steps = run.optimizer.decay_steps = 1500
    run.evaluation.every_steps = run.checkpoint.every_steps = 250
    return run


def _sites_paper(run: Run) -> Run:
    """All sites together, at 1 mm with SFCN: 30 passes over 1,269 scans; the learning rate of a pass is nine tenths of that of the pass before."""
    run.data.cohort = "simba/sites_1mm"
    run.data.batch_size, run.data.eval_batch_size = 5, 10
    run.model.name, run.model.args = "sfcn", {"dropout": 0.2}
    run.optimizer.name, run.optimizer.weight_decay, run.optimizer.warmup_steps = "adam", 0.0, 0
    run.optimizer.schedule, run.optimizer.decay_rate = "exponential", math.exp(-3)
    run.num_steps = run.optimizer.decay_steps = 30 * 254
    run.evaluation.every_steps = run.checkpoint.every_steps = 254
    return run


def _longer(run: Run, resolution: int, batch_size: int, epochs: int) -> Run:
    """Sets another resolution and length; the run is scored after every epoch of the 1,000 training subjects."""
    run.data.cohort = run.data.cohort.replace("4mm", f"{resolution}mm")
    run.data.batch_size, run.data.eval_batch_size = batch_size, 2 * batch_size
    run.evaluation.every_steps = run.checkpoint.every_steps = 1000 // batch_size
    run.num_steps = epochs * run.evaluation.every_steps
    return run


def _paper(run: Run) -> Run:
    """The network and training of the published study, at the resolution of its images: 60 epochs, of which the best by validation loss counts."""
    run.model.args = {
        "features": (32, 64, 128, 256, 512), "activation": "sigmoid", "head": "flatten", "padding": "SAME", "dropout": 0.2,
        "kernel_init": "glorot",
    }  # fmt: skip
    run.optimizer.name, run.optimizer.learning_rate = "adam", 1e-4
    run.optimizer.weight_decay, run.optimizer.warmup_steps = 0.0, 0
    run.optimizer.schedule = "constant"
    return _longer(run, 1, 4, 60)


def _sfcn(run: Run) -> Run:
    """SFCN, a modern network for brain MRI."""
    run.model.name, run.model.args = "sfcn", {}
    run = _longer(run, 2, 8, 40)
    run.optimizer.decay_steps = run.num_steps
    return run
