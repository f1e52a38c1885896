"""Checks of a run's configuration that go beyond the types of its fields."""

import dataclasses

from equipoise.engine.config import METHOD_SETTINGS, Method, Run, Task, flatten, to_dict
from equipoise.engine.errors import UserError, did_you_mean

_TASK_SETTINGS = {
    "classification": ("threshold",),
    "segmentation": ("dice_weight", "dice_over", "loss_grid", "tolerance"),
}
CHOICES = {
    "task.dice_over": ("image", "batch"),
    "task.loss_grid": ("output", "image"),
    "method.name": ("erm", *METHOD_SETTINGS),
    "method.site_weights": ("equal", "size"),
    "method.proximal": ("squared", "norm"),
    "method.absent": ("skip", "collapse"),
    "model.dtype": ("float32", "bfloat16", "float64"),
    "optimizer.name": ("adam", "adamw", "sgd"),
    "optimizer.schedule": ("constant", "cosine", "exponential", "poly"),
    "parallel.mode": ("jit", "pmap"),
    "population.form": ("auto", "mapped", "turns"),
}
_POSITIVE = (
    "num_steps",
    "data.batch_size",
    "data.eval_batch_size",
    "data.num_threads",
    "data.prefetch",
    "method.local_epochs",
    "method.warm_rounds",
    "method.warm_epochs",
    "optimizer.learning_rate",
    "optimizer.accumulate",
    "evaluation.every_steps",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "population.seeds",
    "writers.every_steps",
)


def validate(config: Run) -> None:
    """Checks a configuration.

    Raises:
      UserError: for the first fault. The message names the field, its value and what the field may hold.
    """
    flat = dict(flatten(to_dict(config)))
    for name, choices in CHOICES.items():
        if flat[name] not in choices:
            raise UserError(
                f"--config.{name}={flat[name]!r} is none of {', '.join(choices)}.{did_you_mean(str(flat[name]), choices)}"
            )
    for name in _POSITIVE:
        if not flat[name] > 0:
            raise UserError(f"--config.{name}={flat[name]!r} must be above 0")
    for name in ("data.cohort", "task.label", "model.name"):
        if not flat[name]:
            raise UserError(f"--config.{name} is empty: name one")
    if config.optimizer.schedule != "constant" and config.optimizer.decay_steps <= 0:
        raise UserError(
            f"--config.optimizer.schedule={config.optimizer.schedule} needs --config.optimizer.decay_steps above 0 "
            "(a field apart from num_steps, so that a longer run has the same past)"
        )
    if config.optimizer.weight_decay and config.optimizer.name == "adam":
        raise UserError("--config.optimizer.weight_decay has no effect with adam; choose adamw")
    _validate_task(config.task)
    _validate_method(config)
    if config.method.starts_after >= config.num_steps:
        raise UserError(
            f"--config.num_steps={config.num_steps} ends before {config.method.name} is in force, which takes "
            f"more than {config.method.starts_after} updates (--config.method.pretrain_steps and head_steps)"
        )


def _validate_task(task: Task) -> None:
    """Checks the task's settings: each in its range, and none that its kind does not use."""
    if not 0 <= task.dice_weight <= 1:
        raise UserError(f"--config.task.dice_weight={task.dice_weight!r} must be in [0, 1]")
    if task.tolerance < 0:
        raise UserError(f"--config.task.tolerance={task.tolerance!r} must be at least 0")
    for field in dataclasses.fields(Task):
        users = [kind for kind, settings in _TASK_SETTINGS.items() if field.name in settings]
        is_other = task.kind in _TASK_SETTINGS and users and task.kind not in users
        if is_other and getattr(task, field.name) != field.default:
            raise UserError(
                f"--config.task.{field.name} has no effect with {task.kind}: it belongs to {', '.join(users)}"
            )


def _validate_method(config: Run) -> None:
    """Checks the method's settings: those it needs are there, and none is set that it does not use."""
    method = config.method
    used = METHOD_SETTINGS.get(method.name, ())
    for field in dataclasses.fields(Method):
        value = getattr(method, field.name)
        if field.name in ("name", "group"):
            continue
        if field.name not in used and value != field.default:
            users = [name for name, settings in METHOD_SETTINGS.items() if field.name in settings]
            raise UserError(
                f"--config.method.{field.name} has no effect with {method.name}: it belongs to {', '.join(users)}"
            )
        if not isinstance(value, str) and value < 0:
            raise UserError(f"--config.method.{field.name}={value!r} must be at least 0")
    for needed in method.needs:
        if not getattr(method, needed):
            raise UserError(
                f"--config.method.name={method.name} needs --config.method.{needed}: "
                "an attribute of the cohort, or an intersection such as race*sex"
            )
    for part in ("evaluation", "checkpoint"):
        every = getattr(config, part).every_cycles
        if every and (every < 0 or not method.has_cycles):
            raise UserError(
                f"--config.{part}.every_cycles={every} must be 0, or above 0 with a method that visits sites"
            )
    first = method.pretrain_cycles + method.head_cycles + method.warm_rounds * (method.name == "fedtm")
    if 0 < method.cycles <= first:
        raise UserError(
            f"--config.method.cycles={method.cycles} ends before {method.name} is in force, which takes more than {first} cycles"
        )
