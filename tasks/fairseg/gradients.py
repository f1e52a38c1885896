"""How much of the gradient of Dice each group keeps when FEBS scales it, measured on a trained model batch by batch."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from equipoise.engine import config as run_config
from equipoise.engine import data, methods
from equipoise.engine.training import choosing
from equipoise.engine.training.machine import Machine
from equipoise.engine.update.preprocess import make_preprocess
from equipoise.engine.update.task import TaskKind
from equipoise.tasks import make_task

FORMS = ("febs_released", "febs_intent")


@dataclasses.dataclass(frozen=True)
class KeptGradient:
    """What a form of FEBS does to one group.

    Attributes:
      form: one of :data:`FORMS`.
      group: the level of the attribute.
      loss: the group's mean Dice loss over the batches that hold it.
      ratio: norm of the gradient in the group's logits over that of Dice of the whole batch; geometric mean over batches.
      sd: of the logarithm of the ratio between batches.
      num_batches: the number of batches that hold the group.
    """

    form: str
    group: str
    loss: float
    ratio: float
    sd: float
    num_batches: int


def measure(
    workdir: pathlib.Path, data_dir: pathlib.Path, group: str, num_batches: int = 20
) -> list[KeptGradient]:
    """Measures ratios at the last checkpoint of a run, over its training batches without augmentation.

    Args:
      workdir: the folder of a segmentation run under ERM.
      data_dir: where its cohort is prepared.
      group: the attribute whose levels are the groups.
      num_batches: the number of batches to average over.
    """
    config = run_config.load(workdir)
    training = data.open_split(config.data.cohort, config.data.train_split, data_dir)
    usual = run_config.replaced(config, **{"task.dice_over": "batch", "task.dice_weight": 1.0})
    task = make_task(usual, training)
    machine = Machine(config, make_task(config, training), training)
    state = choosing.restore(machine, workdir, max(choosing.choose_steps(workdir, config, "all")))
    forms = {
        form: methods.make(
            run_config.replaced(usual, **{"method.name": form, "method.group": group}), training
        )
        for form in FORMS
    }
    first = forms[FORMS[0]]
    batches = data.TrainBatches(training, config.data, config.task.label, config.seed, group=first.code)
    tasks = {"plain": task} | {form: method.adapt(task, "all") for form, method in forms.items()}
    preprocess, variables = make_preprocess(config), machine.method.variables(state)

    @jax.jit
    def norms_and_losses(batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
        seen = preprocess(batch)
        logits = machine.method.predict(machine.model, variables, seen["image"], seen)[0]

        def norms(task: TaskKind) -> jax.Array:
            def loss(logits: jax.Array) -> jax.Array:
                whole = task.batch_sums(jax.lax.stop_gradient(logits), seen)
                return task.loss(logits, seen, whole).mean()

            slope = jnp.square(jax.grad(loss)(logits)).sum(tuple(range(1, logits.ndim)))
            return jnp.sqrt(inside @ slope)

        inside = jax.nn.one_hot(batch["group"], len(first.groups.levels)).T
        losses = task.loss(logits, seen)
        return {name: norms(form) for name, form in tasks.items()}, inside @ losses / inside.sum(1)

    measured = [jax.device_get(norms_and_losses(batches.at(step))) for step in range(num_batches)]
    kept = []
    for form in FORMS:
        for place, level in enumerate(first.groups.levels):
            pairs = [
                (norm[form][place] / norm["plain"][place], loss[place])
                for norm, loss in measured
                if norm["plain"][place] > 0
            ]
            logs = np.log([ratio for ratio, _ in pairs])
            kept.append(
                KeptGradient(form, level, float(np.mean([loss for _, loss in pairs])), float(np.exp(logs.mean())), float(logs.std()), len(pairs))
            )  # fmt: skip
    return kept
