"""The run configuration: typed dataclasses, and what makes two the same run; :mod:`equipoise.engine.validation` says which are valid.

A run file (``tasks/<study>/runs.py``) returns a :class:`Run`; the command line overrides single fields
(``--config.optimizer.learning_rate=1e-4``). The dataclasses are not frozen because the flags write into them.
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


@dataclasses.dataclass
class Data:
    """Which images a run sees and how they reach the model."""

    cohort: str = ""  # prepared cohort, as in `equipoise prepare --cohort=...`
    train_split: str = "train"  # of the cohort
    validation_split: str = "validation"  # chooses checkpoints and thresholds
    batch_size: int = 16  # global: over all devices and hosts
    eval_batch_size: int = 64  # global; changes speed alone
    shape: tuple[int, ...] = ()  # centre crop or pad to this many voxels; () keeps the stored shape
    preprocess: str = "minmax"  # deterministic, in training and evaluation: "op|op(arg=1)"
    augment: str = ""  # random, in training only
    num_threads: int = 2  # that read and decode
    prefetch: int = 4  # batches read ahead


@dataclasses.dataclass
class Task:
    """What the model is to learn."""

    kind: str = "classification"  # a module of `tasks`
    label: str = ""  # name under `labels` in the cohort
    threshold: str = "fixed:0.5"  # or chosen on validation: "youden", "max_accuracy", "sens0.9", "spec0.9"
    dice_weight: float = 0.5  # segmentation: of soft Dice in the loss; cross-entropy has the rest
    dice_over: str = "image"  # segmentation: sums of soft Dice are those of each image, or of the whole batch
    loss_grid: str = (
        "output"  # segmentation: the loss is taken on the grid of the model's output, or of the image
    )
    tolerance: float = 1.0  # segmentation: of surface Dice (nsd), in the unit of the cohort's spacing


@dataclasses.dataclass
class Model:
    """Which network: a name in `equipoise.engine.models`, or `my_pkg.module:Class`."""

    name: str = "cnn"
    args: dict[str, Any] = dataclasses.field(default_factory=dict)  # the network's own fields
    weights: str = (
        ""  # a file of published parameters to start from: SAM or MedSAM (.pth, .safetensors), ViT (.npz)
    )
    dtype: str = "float32"  # of the computation: float32, bfloat16, float64; parameters are float32 or wider


@dataclasses.dataclass
class Method:
    """How groups, or sites, enter training; each setting names the methods that it belongs to, and is refused with the others."""

    name: str = "erm"  # erm, reweighing, resampling, group_dro, unlearning, adversarial, group_models, febs_released, febs_intent, fedavg, fedprox, travelling, harmony_tm, fedtm
    group: str = ""  # an attribute, or an intersection such as "race*sex", for methods that have groups
    step_size: float = 0.01  # group_dro: of the exponentiated ascent on the groups' weights
    pretrain_steps: int = 0  # unlearning, adversarial, group_models, febs: updates as under erm before the groups enter; harmony_tm, fedtm: follows from their cycles
    gamma: float = 1.0  # febs_released, febs_intent: exponent of a group's loss in its weight; 0: every group weighs the same
    absent: str = "skip"  # febs_released: a group that the batch lacks is left out, or "collapse": makes every weight 0, as released
    head_steps: int = (
        0  # unlearning, adversarial: then updates that train the group head too, before unlearning starts
    )
    block: str = ""  # unlearning, adversarial, harmony_tm: the model's features that the group head reads; "": the last
    alpha: float = 1.0  # unlearning, adversarial, harmony_tm: factor of the group head's loss
    beta: float = 1.0  # unlearning, adversarial, harmony_tm: factor of the confusion loss
    site: str = ""  # learning across sites (fedavg to fedtm): the attribute whose levels are the sites
    cycles: int = 0  # across sites: the run's length in rounds or cycles, in place of num_steps; 0: num_steps
    local_epochs: int = 1  # across sites: passes over a site's images at each visit
    site_weights: str = "equal"  # fedavg, fedprox, fedtm: each site's share in the average, equal or by size
    mu: float = 0.0  # fedprox, fedtm: of the proximal term; 0: federated averaging
    proximal: str = "squared"  # fedprox, fedtm: mu/2 ||w - w_g||^2, or norm: mu sum_l ||w_l - w_g,l||
    fixed_order: bool = False  # travelling, harmony_tm, fedtm: no other order of the sites in each cycle
    pretrain_cycles: int = 0  # harmony_tm: of the model alone, first
    head_cycles: int = 0  # harmony_tm: then of the group head alone, before unlearning starts
    warm_rounds: int = 2  # fedtm: of federated averaging, before the model travels
    warm_epochs: int = 10  # fedtm: passes over a site's images in each of these rounds
    min_scans: int = 40  # fedtm: images of a site that takes part in these rounds; sites of one class do not

    @property
    def starts_after(self) -> int:
        """Updates after which every part of the method is in force: earlier checkpoints are never the best."""
        return self.pretrain_steps + self.head_steps

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of ``group`` and ``site`` the method cannot do without."""
        return tuple(name for name in ("group", "site") if name in METHOD_SETTINGS.get(self.name, ()))

    @property
    def has_cycles(self) -> bool:
        """Whether the method visits sites, in cycles."""
        return "site" in self.needs


@dataclasses.dataclass
class Optimizer:
    """Gradient transformation and learning-rate schedule (optax)."""

    name: str = "adam"  # adam, adamw, sgd
    learning_rate: float = 1e-3  # at its highest
    schedule: str = "constant"  # constant, cosine, exponential, poly
    warmup_steps: int = 0  # of linear rise, before the schedule; cycles, across sites
    decay_steps: int = 0  # horizon of the schedule, separate from num_steps so that a run can be extended; cycles, across sites
    decay_rate: float = 0.1  # exponential: factor reached after decay_steps
    decay_power: float = 0.9  # poly: (1 - step/decay_steps)^decay_power
    weight_decay: float = 0.0  # adamw and sgd
    no_decay: str = r"(bias|scale)$"  # parameter paths that weight decay leaves alone
    freeze: str = ""  # parameter paths that are not trained
    momentum: float = 0.9  # sgd
    clip_norm: float = 0.0  # 0: no clipping
    accumulate: int = 1  # microbatches whose gradients make one update; batch statistics are per microbatch


@dataclasses.dataclass
class Evaluation:
    """How often the validation split is scored."""

    every_steps: int = 100  # and at the end
    every_cycles: int = 0  # across sites: at the end of every so many cycles, in place of every_steps


@dataclasses.dataclass
class Checkpoint:
    """What is kept."""

    every_steps: int = 100  # and at the end, and on SIGTERM
    every_cycles: int = 0  # as of evaluation
    keep: int = 2  # newest checkpoints kept beside the best one
    best_metric: str = "auroc"  # or e.g. "worst_group:sensitivity:sex"; "loss" is the validation loss


@dataclasses.dataclass
class Population:
    """Runs trained at once as one program, each in a folder WORKDIR/member_000 of its own, and each as it would be alone."""

    seeds: int = 1  # members that differ in the seed: the run's own, one more, ...
    form: str = "auto"  # mapped (over models, over devices) or turns (one device); auto: turns on a CPU
    grid: str = ""  # numbers with every seed, "optimizer.learning_rate=1e-3,1e-4|method.beta=0.1,1"


@dataclasses.dataclass
class Parallel:
    """Where the run is computed; never part of what is computed."""

    mode: str = "jit"  # jit (one program over a mesh) or pmap (one per device): the same numbers
    num_devices: int = 0  # 0: every device


@dataclasses.dataclass
class Writers:
    """What is written while training."""

    every_steps: int = 10  # training rows of metrics.jsonl; several hosts agree on a stop as often
    console: bool = True  # progress and scores
    tensorboard: bool = True  # event files in WORKDIR/tensorboard


@dataclasses.dataclass
class Run:
    """One training run."""

    seed: int = 0  # of initial weights, shuffling, augmentation and dropout
    num_steps: int = 1000  # updates; may be raised later, and the run goes on
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


# Fields that change where or how fast a run goes, or what it prints, but not what it computes.
_NOT_IDENTITY = (
    "num_steps",
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
    """The configuration as nested dicts and lists, the form that ``config.json`` holds."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> Run:
    """The inverse of :func:`to_dict`.

    Raises:
      UserError: for a field that this version does not have.
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
    """The flat fields that decide what a run computes: all but topology, workers, writers and length."""
    return {
        name: value
        for name, value in flatten(to_dict(config))
        if not any(name == skip or name.startswith(skip + ".") for skip in _NOT_IDENTITY)
    }


def fingerprint(config: Run) -> str:
    """Twelve hexadecimal digits that two runs share exactly when they compute the same thing."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load(workdir: pathlib.Path) -> Run:
    """Reads ``workdir/config.json``.

    Raises:
      UserError: where the folder holds no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(
            f"{workdir} holds no run (no config.json): train one there with `equipoise train --workdir=...`"
        )
    return from_dict(json.loads(path.read_text()))


def claim(workdir: pathlib.Path, config: Run, write: bool = True) -> None:
    """Writes ``config.json``, or checks that the run already there is this one.

    Args:
      workdir: the run's folder.
      config: the run.
      write: whether this process is the one that writes.

    Raises:
      UserError: when the folder holds a run of another configuration; every difference is listed.
    """
    path = workdir / "config.json"
    if path.exists():
        old, new = identity(load(workdir)), identity(config)
        changed = [k for k in sorted(old | new) if old.get(k) != new.get(k)]
        if changed:
            lines = "\n".join(f"  {k}: {old.get(k)!r} there, {new.get(k)!r} asked" for k in changed)
            raise UserError(
                f"{workdir} holds a run with another configuration:\n{lines}\n"
                "Continue it with its own values, or give a new --workdir."
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
