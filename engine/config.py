"""The configuration of a run: typed dataclasses, and what makes two configurations the same run.

:mod:`equipoise.engine.validation` says which configurations are valid.

A run file (``tasks/<study>/runs.py``) returns a :class:`Run`; the command line overrides single fields
(``--config.optimizer.learning_rate=1e-4``). The dataclasses are not frozen, because the flags write into them.
"""

import copy
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from equipoise.engine import files
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.rundir import RunFolder


def option(default: Any, meaning: str) -> Any:
    """A field of the configuration with its default value and its meaning, one or two sentences that docs/cli.md prints."""
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclasses.dataclass
class Data:
    """Which images a run sees, and how they reach the model."""

    cohort: str = option("", "The prepared cohort, named as in `equipoise prepare --cohort=...`.")
    train_split: str = option("train", "The split of the cohort that the model is trained on.")
    validation_split: str = option(
        "validation", "The split of the cohort that checkpoints and thresholds are chosen on."
    )
    batch_size: int = option(16, "Images of one update, over all devices and hosts together.")
    eval_batch_size: int = option(
        64, "Images scored together, over all devices and hosts. It changes the speed alone."
    )
    shape: tuple[int, ...] = option(
        (), "Images are cropped or padded about their centre to this many voxels. () keeps the stored shape."
    )
    preprocess: str = option(
        "minmax",
        "Operations without chance, applied in training and in evaluation, as in `op|op(arg=1)`.",
    )
    augment: str = option("", "Random operations, applied in training only, written like `preprocess`.")
    num_threads: int = option(2, "Threads that read and decode images.")
    prefetch: int = option(4, "Batches that are read ahead.")


@dataclasses.dataclass
class Task:
    """What the model is to learn."""

    kind: str = option("classification", "The kind of task: classification or segmentation.")
    label: str = option("", "The label to learn, one of the cohort's `labels`; `mask` in a segmentation.")
    threshold: str = option(
        "fixed:0.5",
        "The threshold of a decision, fixed as in `fixed:0.5`, or chosen on the validation split: youden, max_accuracy, "
        "sens0.9 or spec0.9.",
    )
    dice_weight: float = option(
        0.5, "Segmentation: the share of soft Dice in the loss. Cross-entropy has the rest."
    )
    dice_over: str = option(
        "image",
        "Segmentation: soft Dice takes its sums over each image (image) or over the whole batch (batch).",
    )
    loss_grid: str = option(
        "output",
        "Segmentation: the loss is computed on the grid of the model's output (output) or of the image (image).",
    )
    tolerance: float = option(
        1.0,
        "Segmentation: the distance within which surface Dice (nsd) counts surfaces as equal, in the unit of the cohort's spacing.",
    )


@dataclasses.dataclass
class Model:
    """Which network: a name in `equipoise.engine.models`, or `my_pkg.module:Class`."""

    name: str = option("cnn", "The network's name, or `my_pkg.module:Class` for one of your own.")
    args: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "The network's own arguments: `--config.model.args.NAME=VALUE`."},
    )
    weights: str = option(
        "",
        "A file of published parameters to start from: SAM or MedSAM (.pth, .safetensors), ViT (.npz). "
        "Empty: the parameters start at random.",
    )
    dtype: str = option(
        "float32",
        "The type of number that the network computes in: float32, bfloat16 or float64. Parameters are float32 or wider.",
    )


@dataclasses.dataclass
class Method:
    """How groups or sites enter training. Each setting names the methods that it belongs to and is refused with the others."""

    name: str = option(
        "erm",
        "erm, reweighing, resampling, group_dro, unlearning, adversarial, group_models, febs_released, febs_intent, "
        "fedavg, fedprox, travelling, harmony_tm or fedtm.",
    )
    group: str = option(
        "", 'For methods that have groups: an attribute of the cohort, or an intersection such as "race*sex".'
    )
    step_size: float = option(
        0.01, "group_dro: the step size of the exponentiated ascent on the groups' weights."
    )
    pretrain_steps: int = option(
        0,
        "unlearning, adversarial, group_models, febs_released, febs_intent: updates as under erm before the groups enter. "
        "harmony_tm and fedtm compute it from their cycles.",
    )
    gamma: float = option(
        1.0,
        "febs_released, febs_intent: the exponent of a group's loss in its weight. 0 gives every group the same weight.",
    )
    absent: str = option(
        "skip",
        "febs_released: what a group that is absent from the batch does. skip leaves it out; collapse makes every weight 0, "
        "as the released code does.",
    )
    head_steps: int = option(
        0,
        "unlearning, adversarial: updates after pretrain_steps that also train the group head, before unlearning starts.",
    )
    block: str = option(
        "",
        "unlearning, adversarial, harmony_tm: the block of the network whose features the group head reads. Empty: the last.",
    )
    alpha: float = option(1.0, "unlearning, adversarial, harmony_tm: the factor of the group head's loss.")
    beta: float = option(1.0, "unlearning, adversarial, harmony_tm: the factor of the confusion loss.")
    site: str = option(
        "", "Learning across sites (fedavg to fedtm): the attribute whose levels are the sites."
    )
    cycles: int = option(
        0,
        "Across sites: the length of the run in cycles (rounds), in place of num_steps. 0: num_steps counts.",
    )
    local_epochs: int = option(1, "Across sites: passes over a site's images at each visit.")
    site_weights: str = option(
        "equal",
        "fedavg, fedprox, fedtm: the share of each site in the average: the same for all (equal), or by its number of images (size).",
    )
    mu: float = option(0.0, "fedprox, fedtm: the factor of the proximal term. 0 is federated averaging.")
    proximal: str = option(
        "squared",
        "fedprox, fedtm: the proximal term: mu/2 ||w - w_g||^2 (squared), or mu sum_l ||w_l - w_g,l|| (norm).",
    )
    fixed_order: bool = option(
        False, "travelling, harmony_tm, fedtm: visit the sites in the same order in every cycle."
    )
    pretrain_cycles: int = option(0, "harmony_tm: first cycles, which train the model alone.")
    head_cycles: int = option(
        0, "harmony_tm: next cycles, which train the group head alone, before unlearning starts."
    )
    warm_rounds: int = option(2, "fedtm: rounds of federated averaging before the model travels.")
    warm_epochs: int = option(10, "fedtm: passes over a site's images in each of these rounds.")
    min_scans: int = option(
        40,
        "fedtm: a site with fewer images takes no part in these rounds. Neither does a site with images of one class only.",
    )

    @property
    def starts_after(self) -> int:
        """The number of updates after which every part of the method is in force. Earlier checkpoints are never the best."""
        return self.pretrain_steps + self.head_steps

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of ``group`` and ``site`` that the method needs."""
        return tuple(name for name in ("group", "site") if name in METHOD_SETTINGS.get(self.name, ()))

    @property
    def has_cycles(self) -> bool:
        """Whether the method visits sites in cycles."""
        return "site" in self.needs


@dataclasses.dataclass
class Optimizer:
    """Gradient transformation and learning-rate schedule (optax)."""

    name: str = option("adam", "adam, adamw or sgd.")
    learning_rate: float = option(1e-3, "The learning rate at its highest.")
    schedule: str = option("constant", "How the learning rate falls: constant, cosine, exponential or poly.")
    warmup_steps: int = option(
        0, "Updates of linear rise before the schedule. Methods across sites count cycles."
    )
    decay_steps: int = option(
        0,
        "Updates over which the schedule runs, separate from num_steps so that a run can be extended. Methods across sites "
        "count cycles.",
    )
    decay_rate: float = option(0.1, "exponential: the factor that the rate has reached after decay_steps.")
    decay_power: float = option(0.9, "poly: the power p in (1 - step/decay_steps)^p.")
    weight_decay: float = option(0.0, "adamw and sgd: the factor of weight decay.")
    no_decay: str = option(
        r"(bias|scale)$", "A regular expression: parameters whose path matches have no weight decay."
    )
    freeze: str = option("", "A regular expression: parameters whose path matches are not trained.")
    momentum: float = option(0.9, "sgd: the momentum.")
    clip_norm: float = option(0.0, "The norm that gradients are clipped to. 0: no clipping.")
    accumulate: int = option(
        1,
        "Microbatches whose gradients make one update. Batch statistics are those of each microbatch.",
    )


@dataclasses.dataclass
class Evaluation:
    """How often the validation split is scored."""

    every_steps: int = option(
        100, "Updates between two evaluations. The last update is always followed by one."
    )
    every_cycles: int = option(
        0, "Across sites: score at the end of every so many cycles, in place of every_steps."
    )


@dataclasses.dataclass
class Checkpoint:
    """Which states of the run are kept."""

    every_steps: int = option(
        100, "Updates between two checkpoints. The end of the run and SIGTERM are always followed by one."
    )
    every_cycles: int = option(
        0, "Across sites: save at the end of every so many cycles, in place of every_steps."
    )
    keep: int = option(2, "The number of newest checkpoints that are kept beside the best one.")
    best_metric: str = option(
        "auroc",
        'The validation metric that chooses the best checkpoint, such as auroc, loss or "worst_group:sensitivity:sex".',
    )


@dataclasses.dataclass
class Population:
    """Runs trained at once as one program. Each has a folder of its own, WORKDIR/member_000, ..., and is as it would be alone."""

    seeds: int = option(1, "Members that differ in the seed: the run's own seed, the next one, and so on.")
    form: str = option(
        "auto",
        "How they are computed: side by side over the devices (mapped), or one after the other on one device (turns). "
        "auto takes turns on a CPU.",
    )
    grid: str = option(
        "",
        'Numbers to try with every seed, as in "optimizer.learning_rate=1e-3,1e-4|method.beta=0.1,1".',
    )


@dataclasses.dataclass
class Parallel:
    """Devices and processes that compute the run. They never change what is computed."""

    mode: str = option(
        "jit",
        "jit (one program over all devices) or pmap (one program for each): both give the same numbers.",
    )
    num_devices: int = option(0, "Devices to use. 0: every device.")


@dataclasses.dataclass
class Writers:
    """What is written while training."""

    every_steps: int = option(
        10, "Updates between two training rows of metrics.jsonl. Several hosts agree on a stop as often."
    )
    console: bool = option(True, "Show progress and scores on the console.")
    tensorboard: bool = option(True, "Write event files to WORKDIR/tensorboard.")


@dataclasses.dataclass
class Run:
    """One training run."""

    seed: int = option(0, "The seed of initial parameters, shuffling, augmentation and dropout.")
    num_steps: int = option(1000, "Updates of the run. The number may be raised later, and the run goes on.")
    study: str = option(
        "",
        "The study that the run belongs to, whose analysis adds sections to its reports: a folder of `tasks`, or the module of "
        "an analysis. `--config=STUDY:NAME` fills it.",
    )
    data: Data = dataclasses.field(default_factory=Data)
    task: Task = dataclasses.field(default_factory=Task)
    model: Model = dataclasses.field(default_factory=Model)
    method: Method = dataclasses.field(default_factory=Method)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    population: Population = dataclasses.field(default_factory=Population)
    parallel: Parallel = dataclasses.field(default_factory=Parallel)
    writers: Writers = dataclasses.field(default_factory=Writers)


# Fields that change where or how fast a run goes, what it prints or who reports it, but not what it computes.
_NOT_IDENTITY = (
    "num_steps",
    "study",
    "method.cycles",
    "parallel",
    "population.form",
    "writers",
    "data.num_threads",
    "data.prefetch",
)
_HEAD = ("group", "pretrain_steps", "block", "alpha", "beta")
_SITES = ("site", "cycles", "local_epochs")
_ROUNDS = ("site_weights", "mu", "proximal")
METHOD_SETTINGS = {
    "reweighing": ("group",),
    "resampling": ("group",),
    "group_dro": ("group", "step_size"),
    "unlearning": (*_HEAD, "head_steps"),
    "adversarial": (*_HEAD, "head_steps"),
    "group_models": ("group", "pretrain_steps"),
    "febs_released": ("group", "pretrain_steps", "gamma", "absent"),
    "febs_intent": ("group", "pretrain_steps", "gamma"),
    "fedavg": (*_SITES, "site_weights"),
    "fedprox": (*_SITES, *_ROUNDS),
    "travelling": (*_SITES, "fixed_order"),
    "harmony_tm": (*_SITES, *_HEAD, "fixed_order", "pretrain_cycles", "head_cycles"),
    "fedtm": (*_SITES, *_ROUNDS, "fixed_order", "pretrain_steps", "warm_rounds", "warm_epochs", "min_scans"),
}


def to_dict(config: Run) -> dict[str, Any]:
    """The configuration as nested dictionaries and lists, as ``config.json`` holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> Run:
    """The inverse of :func:`to_dict`.

    Raises:
      UserError: for a field that this version does not know.
    """

    def build(cls: type, given: Mapping[str, Any]) -> Any:
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in given:
            if name not in fields:
                raise UserError(
                    f"config has no field {name!r} in {cls.__name__}.{did_you_mean(name, fields)}"
                )
        made = {}
        for name, value in given.items():
            kind = fields[name].type
            if dataclasses.is_dataclass(kind):
                value = build(kind, value)
            elif isinstance(value, list):
                value = tuple(value)
            made[name] = value
        return cls(**made)

    return build(Run, values)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ``("data.batch_size", 16)`` for every leaf of nested mappings."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def identity(config: Run) -> dict[str, Any]:
    """Dotted field -> value, for the fields that decide what a run computes: all but topology, workers, writers, length and study."""
    return {
        name: value
        for name, value in flatten(to_dict(config))
        if not any(name == skip or name.startswith(skip + ".") for skip in _NOT_IDENTITY)
    }


def fingerprint(config: Run) -> str:
    """Twelve hexadecimal digits that are the same for two runs exactly when the runs compute the same thing."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load(workdir: pathlib.Path) -> Run:
    """Reads ``workdir/config.json``.

    Raises:
      UserError: where the folder holds no run.
    """
    path = RunFolder(workdir).config
    if not path.exists():
        raise UserError(
            f"{workdir} holds no run (there is no config.json): train one with `equipoise train --workdir=...`"
        )
    return from_dict(json.loads(path.read_text()))


def claim(workdir: pathlib.Path, config: Run, write: bool = True) -> None:
    """Writes ``config.json``, or checks that the run which is there already is this one.

    Args:
      workdir: the run's folder.
      config: the run.
      write: whether this process writes the file.

    Raises:
      UserError: where the folder holds a run of another configuration. The message lists every difference.
    """
    path = RunFolder(workdir).config
    if path.exists():
        old, new = identity(load(workdir)), identity(config)
        changed = [k for k in sorted(old | new) if old.get(k) != new.get(k)]
        if changed:
            lines = "\n".join(f"  {k}: {old.get(k)!r} there, {new.get(k)!r} asked" for k in changed)
            raise UserError(
                f"{workdir} holds a run with another configuration:\n{lines}\n"
                "Go on with its own values, or name a new --workdir."
            )
    if not write:
        return
    files.write_text(path, json.dumps(to_dict(config), indent=2) + "\n")


def replaced(config: Run, **changes: Any) -> Run:
    """A deep copy with dotted fields changed: ``replaced(run, **{"data.batch_size": 4})``."""
    config = copy.deepcopy(config)
    for name, value in changes.items():
        *path, last = name.split(".")
        holder: Any = config
        for part in path:
            holder = getattr(holder, part)
        if not hasattr(holder, last):
            raise UserError(f"config has no field {name!r}")
        setattr(holder, last, value)
    return config
