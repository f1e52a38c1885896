"""Methods on a tiny network and made-up rows, for the tests of every method."""

import numpy as np
import pandas as pd

from equipoise.engine import config as run_config
from equipoise.engine import data, mesh, methods, models
from equipoise.engine.config import Run
from equipoise.engine.training.step import init_state, make_train_step
from equipoise.engine.update import optim
from equipoise.tasks.kinds.classification import Classification

SHAPE, BATCH = (8, 8, 1), 12
TASK = Classification("disease", ("absent", "present"), "present")
SETTINGS = {
    "group_dro": {"step_size": 0.5},
    "unlearning": {"pretrain_steps": 1, "head_steps": 1, "alpha": 0.7, "beta": 2.0},
    "adversarial": {"pretrain_steps": 1, "head_steps": 1, "alpha": 0.7, "beta": 2.0},
    "group_models": {"pretrain_steps": 2},
    "fedavg": {"site": "sex"},
    "fedprox": {"site": "sex", "mu": 0.1, "proximal": "norm"},
    "travelling": {"site": "sex"},
    "harmony_tm": {"site": "sex", "alpha": 0.7, "beta": 2.0},
    "fedtm": {"site": "sex", "warm_rounds": 1, "warm_epochs": 1, "min_scans": 25},
}


class Rows:
    """A training split as methods see it."""

    cohort, name = "made", "train"
    target = data.Split.target

    def __init__(self, disease, **attributes):
        self._attributes = attributes
        self.columns = pd.DataFrame({"label:disease": disease} | attributes)

    def vocabulary(self, kind):
        if kind == "labels":
            return {"disease": ["absent", "present"]}
        levels = {k: sorted({*v, "unknown"} - {"never"}) for k, v in self._attributes.items()}
        return levels | {"age": None}


def tiny_method(name, split, **settings):
    config = Run(seed=1)
    config.data.preprocess, config.data.batch_size = "", BATCH
    config.task.label = "disease"
    config.model.name, config.model.args = "tests.tiny_network:Model", {"dropout": 0.0}
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.05
    config.method = run_config.Method(name=name, group="sex", **(SETTINGS.get(name, {}) | settings))
    return config, methods.make(config, split)


def batch_of(rng, group, shape=SHAPE, dtype=np.float32):
    n = len(group)
    return {
        "image": rng.normal(size=(n, *shape)).astype(dtype),
        "target": rng.integers(0, 2, n).astype(np.int32),
        "scale": np.tile(dtype([1, 0]), (n, 1)),
        "weight": np.ones(n, np.float32),
        "position": np.arange(n, dtype=np.int32),
        "group": np.asarray(group, np.int32),
    }


def tiny_machine(config, method):
    """(fresh state, phase -> compiled step) of a tiny 2D network."""
    runner = mesh.make_runner(config)
    model = models.build(config.model.name, num_outputs=2, **config.model.args)
    optimizer = optim.make(config.optimizer)
    state = runner.replicate(init_state(config, model, optimizer, SHAPE, method))
    steps = {}

    def step(state, batch):
        phase = method.phase(int(state.step))
        if phase not in steps:
            made = make_train_step(config, model, TASK, optimizer, None, method, phase)
            steps[phase] = runner.train(made)
        return steps[phase](state, runner.shard(batch))

    return model, state, step


SEX = ["F"] * 6 + ["M"] * 3 + ["unknown"]
DISEASE = [0, 0, 0, 0, 1, 1, 0, 1, 1, 1]
