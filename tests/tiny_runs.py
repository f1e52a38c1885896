"""Runs of a few seconds on the tiny cohort of ``tests/conftest.py``, for tests that launch the real programs."""

from engine.config import Run


def get_config(name: str = "float32") -> Run:
    run = Run(seed=3, num_steps=12)
    run.data.cohort = "tiny"
    run.data.batch_size = 16
    run.data.eval_batch_size = 7
    run.data.preprocess = "minmax|rescale(offset=-0.5)"
    run.data.augment = "shift(voxels=1)|flip(axis=1)|noise(sd=0.05)"
    run.task.label = "disease"
    run.model.args = {"features": (4, 8), "dropout": 0.3}
    run.model.dtype = name
    run.optimizer.name = "adamw"
    run.optimizer.learning_rate = 1e-2
    run.optimizer.weight_decay = 1e-2
    run.evaluation.every_steps = 4
    run.checkpoint.every_steps = 4
    run.writers.every_steps = 3
    run.writers.tensorboard = False
    return run
