"""Runs of a few seconds on the tiny cohort of ``tests/conftest.py``, for tests that launch the real programs."""

from equipoise.engine.config import Run
from equipoise.engine.methods import METHODS

OF_CLASSES = [
    name for name in METHODS if not name.startswith("febs")
]  # methods that learn classes, not masks alone


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


def masks(dtype: str = "float32") -> Run:
    """A segmentation of ``tiny_masks``, by a network whose logits lie on every second pixel."""
    run = get_config(dtype)
    run.num_steps = 8
    run.data.cohort, run.data.batch_size, run.data.eval_batch_size = "tiny_masks", 8, 5
    run.data.preprocess = "rescale(factor=0.01)"
    run.data.augment = "flip(axis=0)|rotate(degrees=10.0)|gamma"
    run.task.kind, run.task.label = "segmentation", "mask"
    run.model.name, run.model.args = "tests.tiny_segmenter:Model", {}
    run.optimizer.learning_rate = 0.05
    run.checkpoint.best_metric = "worst_group:dice:sex"
    run.writers.console = False
    return run
