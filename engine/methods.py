"""How groups enter training: one protocol, whose methods every run can choose by ``--config.method.name``.

A group is a level of an attribute, or of an intersection, that has images to train on. An image of unknown group is in no
group, and never in another's: it trains with weight 1, trains no group head, and is scored by the model of everyone.

Whatever a method carries from one step to the next is ``TrainState.method``, and so it is in every checkpoint and equal
on every device. Whatever a method sums over a batch it sums over the global batch.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from engine import losses, optim, rng
from engine.config import Run, UserError
from engine.data import Split, shuffled
from engine.groups import Groups, trained

if TYPE_CHECKING:
    from engine.step import Sweep, TrainState

    Step = Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Method:
    """Empirical risk minimisation, and the protocol: each method overrides what it does otherwise.

    Attributes:
      config: of the run.
      groups: that training knows; None under empirical risk minimisation.
      code: [n] group of every training image, -1 for none.
      target: [n] label of every training image.
    """

    config: Run
    groups: Groups | None = None
    code: Int[np.ndarray, " n"] | None = None
    target: np.ndarray | None = None

    measures = False  # whether weights depend on the losses of the whole batch
    is_by_group = False  # whether an image's score depends on its group

    def order(self) -> grain.MapDataset | None:
        """The row of every draw, a pure function of the seed; None: each once per epoch, shuffled."""
        return None

    def phase(self, step: int) -> str:
        """Which of the method's programs makes update ``step`` (from 0); each is compiled once."""
        return "all"

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> Any:
        """The method's own part of a fresh state.

        Args:
          state: model and optimizer, fresh.
          features: gives the model's features of one image; its shapes are meant, not its values.
        """
        return ()

    def measure(self, each: Float[Array, " b"], batch: dict[str, Array]) -> Any:
        """Sums over the examples of (a part of) a batch that :meth:`update` needs, from their losses."""
        return ()

    def update(self, own: Any, measured: Any) -> Any:
        """The method's next state, from what was measured over the global batch."""
        return own

    def weigh(self, own: Any, measured: Any, batch: dict[str, Array]) -> Float[Array, " b"]:
        """The weight of every example in the sum of losses, which is then divided by the number of examples."""
        return jnp.ones(batch["weight"].shape, batch["weight"].dtype)

    def show(self, own: Any) -> dict[str, Array]:
        """What training reports of the method's state."""
        return {}

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """The whole update of a phase, around the update of one model by weighted losses."""
        return step

    def variables(self, state: TrainState) -> dict[str, Any]:
        """What prediction needs of a state."""
        return {"params": state.params, "batch_stats": state.batch_stats}

    def predict(
        self, model: nn.Module, variables: dict[str, Any], images: Array, batch: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Output and features of the model that scores each image."""
        return model.apply(variables, images, train=False)


class Reweighing(Method):
    """Every example counts ``w(c, g) = P(c) P(g) / P(c, g)``, under which class and group are independent.

    The shares are those of the training split's images of known group. Kamiran and Calders 2012, Knowledge and
    Information Systems 33:1-33, section 4.3.
    """

    @functools.cached_property
    def table(self) -> Float[np.ndarray, "classes groups+1"]:
        """Weights by class and group; the last column, which group -1 reads, is 1. A cell without images has 1 too."""
        counts = _counts(self)
        joint = counts / counts.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            weights = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) / joint
        return np.pad(np.where(counts > 0, weights, 1.0), ((0, 0), (0, 1)), constant_values=1.0)

    def weigh(self, own: Any, measured: Any, batch: dict[str, Array]) -> Float[Array, " b"]:
        """Looks weights up."""
        return jnp.asarray(self.table, batch["weight"].dtype)[batch["target"], batch["group"]]


class _Weighted:
    """Rows drawn one by one, with replacement, each draw a pure function of (seed, its number)."""

    def __init__(self, weights: Float[np.ndarray, " n"], seed: int):
        self._edges, self._seed = np.cumsum(weights), seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        drawn = np.random.default_rng((self._seed, index)).random() * self._edges[-1]
        return int(np.searchsorted(self._edges, drawn, side="right"))


class Resampling(Method):
    """Examples are drawn with replacement, every cell of class and group that has images equally often.

    An image of unknown group is drawn as often as without resampling: once in n draws.
    """

    def order(self) -> grain.MapDataset:
        """Draws by weight."""
        counts = _counts(self)
        known = self.code >= 0
        weights = np.ones(len(self.code))
        share = counts.sum() / (counts > 0).sum()
        weights[known] = share / counts[self.target[known], self.code[known]]
        return grain.MapDataset.source(_Weighted(weights, self.config.seed))


class GroupDRO(Method):
    """Groups with the larger loss weigh more: ``sum_g q_g l_g``, with q by exponentiated ascent.

    At each batch ``q_g <- q_g exp(step_size l_g) / sum``, l_g the mean loss of group g in the global batch (0 where it is
    absent), then the model descends on ``sum_g q_g l_g``. Sagawa et al. 2020, arXiv:1911.08731, algorithm 1, with
    every group's mean in each batch as in section 5. Images of unknown group keep their share of the batch, at weight 1.
    """

    measures = True

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> Float[Array, " groups"]:
        """Equal weights."""
        size = len(self.groups.levels)
        return jnp.full(size, 1 / size, jnp.promote_types(self.config.model.dtype, jnp.float32))

    def _members(self, batch: dict[str, Array], dtype: Any) -> Float[Array, "b groups"]:
        inside = jax.nn.one_hot(batch["group"], len(self.groups.levels), dtype=dtype)  # -1 is nowhere
        return inside * batch["weight"].astype(dtype)[:, None]

    def measure(self, each: Float[Array, " b"], batch: dict[str, Array]) -> tuple[Array, Array]:
        """Sum of losses and number of examples of every group."""
        members = self._members(batch, each.dtype)
        return jnp.where(members > 0, members * each[:, None], 0).sum(0), members.sum(0)

    def update(self, own: Array, measured: tuple[Array, Array]) -> Array:
        """Exponentiated ascent."""
        total, count = measured
        grown = own * jnp.exp(self.config.method.step_size * total / jnp.maximum(count, 1)).astype(own.dtype)
        return grown / grown.sum()

    def weigh(self, own: Array, measured: Any, batch: dict[str, Array]) -> Float[Array, " b"]:
        """``q_g n_known / n_g``, which makes the mean over known examples the weighted sum of group means."""
        count = measured[1]
        weights = own * (count.sum() / jnp.maximum(count, 1)).astype(own.dtype)
        return jnp.append(weights, 1.0)[batch["group"]]

    def show(self, own: Array) -> dict[str, Array]:
        """The weights q by level."""
        return {f"group_weight:{level}": own[i] for i, level in enumerate(self.groups.levels)}


class Unlearning(Method):
    """A group head reads the model's features, and the model unlearns what the head can read.

    Three updates per batch, each with an optimizer of its own and with the networks as the update before left them:
    the model on the task's loss; the group head on alpha times its cross-entropy, the model held; the model on beta times
    the confusion loss ``-sum_k log p_k / K``, the head held, without weight decay. Means are over the batch's images of
    known group. Running statistics of the model move with the first update only. Dinsdale et al. 2021, NeuroImage
    228:117689, doi 10.1016/j.neuroimage.2020.117689, equations 1 to 3.

    Phases: ``pretrain_steps`` of the first update alone, ``head_steps`` of the first two, then all three.
    """

    def phase(self, step: int) -> str:
        """``model``, ``head`` or ``all``."""
        method = self.config.method
        if step < method.pretrain_steps:
            return "model"
        return "head" if step < method.starts_after else "all"

    def _feature(self, features: dict[str, Array]) -> Float[Array, "b n"]:
        block = self.config.method.block or list(features)[-1]
        if block not in features:
            raise UserError(
                f"--config.method.block={block!r}: the model's features are {', '.join(features)}"
            )
        found = features[block]
        return found.mean(tuple(range(1, found.ndim - 1)))

    @property
    def _optimizers(self) -> dict[str, Any]:
        own = self.config.optimizer
        return {
            "head": optim.make(dataclasses.replace(own, freeze="")),
            "confusion": optim.make(dataclasses.replace(own, weight_decay=0.0)),
        }

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """Group head and the state of two more optimizers."""
        width = jax.eval_shape(lambda: self._feature(features())).shape[-1]
        dtype = jnp.promote_types(self.config.model.dtype, jnp.float32)
        shape = (width, len(self.groups.levels))
        kernel = nn.initializers.glorot_uniform()(rng.key(self.config.seed, "group_head"), shape, jnp.float32)
        head = {"kernel": kernel.astype(dtype), "bias": jnp.zeros(shape[1], dtype)}
        optimizers = self._optimizers
        return {
            "head": head,
            "head_opt": optimizers["head"].init(head),
            "confusion_opt": optimizers["confusion"].init(state.params),
        }

    def _logits(self, head: dict[str, Array], features: dict[str, Array]) -> Float[Array, "b groups"]:
        return self._feature(features).astype(head["kernel"].dtype) @ head["kernel"] + head["bias"]

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """Adds the second and third update."""
        if phase == "model":
            return step
        alpha, beta, optimizers = self.config.method.alpha, self.config.method.beta, self._optimizers

        def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
            moved, shown = step(state, batch)
            own = state.method
            is_known = batch["group"] >= 0
            known = batch | {
                "group": jnp.maximum(batch["group"], 0),
                "weight": jnp.where(is_known, batch["weight"], 0),
            }
            norm = jnp.maximum(sweep.total(known["weight"].sum()), 1)

            def logits(params: Any, head: Any, batch_stats: Any, micro: dict[str, Array]) -> Any:
                _, features, batch_stats = sweep.forward(params, batch_stats, micro, state.step)
                return self._logits(head, features), batch_stats

            def recognise(head: Any, batch_stats: Any, micro: dict[str, Array]) -> Any:
                found, batch_stats = logits(moved.params, head, batch_stats, micro)
                each = losses.softmax_cross_entropy(found, micro["group"])
                return losses.weighted_mean(each, micro["weight"])[0] / norm * alpha, ((), batch_stats)

            def confuse(params: Any, batch_stats: Any, micro: dict[str, Array]) -> Any:
                found, batch_stats = logits(params, head, batch_stats, micro)
                each = -jax.nn.log_softmax(found).mean(-1)
                return losses.weighted_mean(each, micro["weight"])[0] / norm * beta, ((), batch_stats)

            stats = moved.batch_stats
            shown["group_head_loss"], _, grads, _ = sweep.gradient(recognise, own["head"], stats, known)
            head, head_opt = optim.apply(optimizers["head"], grads, own["head_opt"], own["head"])
            own = own | {"head": head, "head_opt": head_opt}
            params = moved.params
            if phase == "all":
                shown["confusion_loss"], _, grads, _ = sweep.gradient(confuse, params, stats, known)
                params, opt = optim.apply(optimizers["confusion"], grads, own["confusion_opt"], params)
                own = own | {"confusion_opt": opt}
            return moved.replace(params=params, method=own), shown

        return train_step


class _ByTurns:
    """Draws of everyone for the first batches, then of one group per batch, the groups by turns."""

    def __init__(self, everyone: grain.MapDataset, groups: list[grain.MapDataset], first: int, size: int):
        self._everyone, self._groups, self._first, self._size = everyone, groups, first, size

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        batch, place = divmod(index, self._size)
        if batch < self._first:
            return self._everyone[index]
        turn, group = divmod(batch - self._first, len(self._groups))
        return self._groups[group][turn * self._size + place]


class GroupModels(Method):
    """One model of everyone, then one of each group, fine-tuned from it on the group's own images.

    After ``pretrain_steps`` the groups take turns, one update each, on shuffled batches of their own images; a group starts
    from the model of everyone and its optimizer's state, which then stay as they are. An image is scored by its group's
    model; one of unknown group by the model of everyone. Puyol-Anton et al. 2021, arXiv:2106.12387 (their protected-
    group models).
    """

    is_by_group = True

    def order(self) -> grain.MapDataset:
        """Everyone, then by turns."""
        rows, seed = np.arange(len(self.code)), self.config.seed
        groups = [shuffled(rows[self.code == g], seed) for g in range(len(self.groups.levels))]
        first, size = self.config.method.pretrain_steps, self.config.data.batch_size
        return grain.MapDataset.source(_ByTurns(shuffled(rows, seed), groups, first, size))

    def phase(self, step: int) -> str:
        """``everyone`` or ``groups``."""
        return "everyone" if step < self.config.method.pretrain_steps else "groups"

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """A place for every group's model and optimizer, [groups, ...]; it counts from the group's first turn on."""
        size = len(self.groups.levels)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))), _model_of(state))

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """Steps the model whose turn it is."""
        size, first = len(self.groups.levels), self.config.method.pretrain_steps

        def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
            if phase == "everyone":
                return step(state, batch)
            turn, group = jnp.divmod(state.step - first, size)
            everyone = _model_of(state)
            one = jax.tree.map(lambda a, each: jnp.where(turn == 0, a, each[group]), everyone, state.method)
            moved, shown = step(state.replace(method=(), **one), batch)
            put = functools.partial(jax.tree.map, lambda each, x: each.at[group].set(x))
            return state.replace(step=moved.step, method=put(state.method, _model_of(moved))), shown

        return train_step

    def variables(self, state: TrainState) -> dict[str, Any]:
        """Every model, and how many groups have had a turn."""
        groups = {name: state.method[name] for name in ("params", "batch_stats")}
        turned = state.step - self.config.method.pretrain_steps
        return super().variables(state) | {"groups": groups, "turned": turned}

    def predict(
        self, model: nn.Module, variables: dict[str, Any], images: Array, batch: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Runs every model on every image, and keeps what the image's own model says."""
        groups, turned = variables["groups"], variables["turned"]
        everyone = {name: variables[name] for name in ("params", "batch_stats")}
        found = model.apply(everyone, images, train=False)
        for group in range(len(self.groups.levels)):
            more = model.apply(jax.tree.map(lambda x, g=group: x[g], groups), images, train=False)
            is_own = (batch["group"] == group) & (group < turned)
            found = jax.tree.map(
                lambda a, b, own=is_own: jnp.where(own.reshape(-1, *(1,) * (a.ndim - 1)), b, a), found, more
            )
        return found


def _model_of(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("params", "batch_stats", "opt_state")}


def _counts(method: Method) -> Int[np.ndarray, "classes groups"]:
    """Training images by class and group."""
    known = method.code >= 0
    counts = np.zeros((method.target.max() + 1, len(method.groups.levels)), np.int64)
    np.add.at(counts, (method.target[known], method.code[known]), 1)
    return counts


METHODS: dict[str, type[Method]] = {
    "erm": Method,
    "reweighing": Reweighing,
    "resampling": Resampling,
    "group_dro": GroupDRO,
    "unlearning": Unlearning,
    "group_models": GroupModels,
}


def make(config: Run, training: Split) -> Method:
    """The method that ``config.method`` names, made for a training split.

    Raises:
      UserError: for an attribute that makes no groups, or a label that is a number where classes are needed.
    """
    kind = METHODS[config.method.name]
    if kind is Method:
        return Method(config)
    found = trained(training, config.method.group)
    label = config.task.label
    if kind in (Reweighing, Resampling) and training.vocabulary("labels").get(label) is None:
        raise UserError(f"--config.method.name={config.method.name} needs classes, and {label!r} is a number")
    return kind(config, found, found.code(training), training.columns[f"label:{label}"].to_numpy())
