"""SimBA runs: disease classification in synthetic brains, with and without a planted bias.

  equipoise prepare --cohort=simba/near_4mm
  equipoise train   --config=simba:near --workdir=runs/near

`near`, `far` and `none` differ in the cohort alone, and those cohorts share every draw but the bias effect: same
subjects, same splits, same initial weights, same batches. Cost: about 3 minutes on 2 CPU cores each. To expect: under
`near`, test accuracy 0.82 (the best possible without the shortcut: 0.84), and sensitivity 9 points higher when the bias is
rendered into the same subjects. The table in tasks/simba/README.md has every figure.
"""

from engine.config import Run

_SCENARIOS = ("none", "near", "far")


def names() -> list[str]:
    """Every run of this study."""
    return list(_SCENARIOS)


def get_config(name: str = "near") -> Run:
    """One scenario at 4 mm.

    Raises:
      ValueError: for an unknown name, with those that there are.
    """
    if name not in _SCENARIOS:
        raise ValueError(f"no run {name!r} in simba; there are: {', '.join(_SCENARIOS)}")
    run = Run()
    run.seed = 0
    run.num_steps = 600
    run.data.cohort = f"simba/{name}_4mm"
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
    return run
