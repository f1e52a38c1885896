"""SimBA runs: disease classification in synthetic brains, with and without a planted bias.

  equipoise prepare --cohort=simba/near_4mm
  equipoise train   --config=simba:near --workdir=runs/near
  equipoise train   --config=simba:near_paper --workdir=runs/near_paper    (1 mm and the study's network; for a GPU)
  equipoise train   --config=simba:near_sfcn --workdir=runs/near_sfcn      (2 mm and SFCN; for a GPU)

`none`, `near`, `far`, `intensity`, `both` and `multi` differ in the cohort alone, and those cohorts share every draw but the
bias effect: same subjects, same splits, same initial weights, same batches. Each exists as it stands and as `_paper` and
`_sfcn`. Cost: about 3 minutes on 2 CPU cores each as it stands. To expect: under `near`, test accuracy 0.82 (the best
possible without the shortcut: 0.84), and sensitivity 9 points higher when the bias is rendered into the same subjects. The
tables in tasks/simba/README.md have every figure.
"""

from engine.config import Run, did_you_mean

_SCENARIOS = ("none", "near", "far", "intensity", "both", "multi")
_KINDS = ("", "paper", "sfcn")


def names() -> list[str]:
    """The runs of this study; the other scenarios of a kind go by the same pattern."""
    return [*_SCENARIOS, "near_paper", "near_sfcn"]


def get_config(name: str = "near") -> Run:
    """One scenario at 4 mm with a small network; ``SCENARIO_paper`` and ``SCENARIO_sfcn`` are larger.

    Raises:
      ValueError: for an unknown name, with those that there are.
    """
    scenario, _, kind = name.partition("_")
    if scenario not in _SCENARIOS or kind not in _KINDS:
        known = [s + k for s in _SCENARIOS for k in ("", "_paper", "_sfcn")]
        raise ValueError(
            f"no run {name!r} in simba.{did_you_mean(name, known)} There are: {', '.join(known)}"
        )
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
    return {"": lambda r: r, "paper": _paper, "sfcn": _sfcn}[kind](run)


def _longer(run: Run, resolution: int, batch_size: int, epochs: int) -> Run:
    """Another resolution and length, judged after every epoch of the 1,000 training subjects."""
    run.data.cohort = run.data.cohort.replace("4mm", f"{resolution}mm")
    run.data.batch_size, run.data.eval_batch_size = batch_size, 2 * batch_size
    run.evaluation.every_steps = run.checkpoint.every_steps = 1000 // batch_size
    run.num_steps = epochs * run.evaluation.every_steps
    return run


def _paper(run: Run) -> Run:
    """The study's network and training, at the resolution of its images: 60 epochs, of which the best by validation loss counts."""
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
