"""How groups enter training, for every run to choose by ``--config.method.name``; sites: :mod:`equipoise.engine.methods.federated`.

A group is a level of an attribute, or of an intersection, that has images to train on. An image of unknown group is in no
group, and never in another's: it trains with weight 1, trains no group head, and is scored by the model of everyone.
"""

from __future__ import annotations

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

from equipoise.engine.config import Run
from equipoise.engine.data import Split, shuffled
from equipoise.engine.errors import UserError
from equipoise.engine.methods import febs, federated
from equipoise.engine.methods.base import Method
from equipoise.engine.methods.groups import trained
from equipoise.engine.methods.unlearning import Adversarial, Unlearning

if TYPE_CHECKING:
    from equipoise.engine.methods.base import Step
    from equipoise.engine.update.state import TrainState
    from equipoise.engine.update.sweep import Sweep


class Reweighing(Method):
    """Every example counts ``w(c, g) = P(c) P(g) / P(c, g)``, under which class and group are independent.

    The shares are those of the training split's images of known group. Kamiran and Calders 2012, Knowledge and
    Information Systems 33:1-33, section 4.3. Where there is one class alone, as of a mask, each of G groups is to count
    the same instead: ``w(g) = 1 / (G P(g))``.
    """

    @functools.cached_property
    def table(self) -> Float[np.ndarray, "classes groups+1"]:
        """Weights by class and group; the last column, which group -1 reads, is 1. A cell without images has 1 too."""
        counts = _counts(self)
        joint = counts / counts.sum()
        if len(joint) == 1:
            return np.pad(1 / (joint.size * joint), ((0, 0), (0, 1)), constant_values=1.0)
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
    "adversarial": Adversarial,
    "group_models": GroupModels,
    "febs_released": febs.ReleasedFEBS,
    "febs_intent": febs.IntendedFEBS,
    "fedavg": federated.FedAvg,
    "fedprox": federated.FedProx,
    "travelling": federated.Travelling,
    "harmony_tm": federated.HarmonyTM,
    "fedtm": federated.FedTM,
}


def make(config: Run, training: Split) -> Method:
    """The method that ``config.method`` names, made for a training split.

    Raises:
      UserError: for an attribute that makes no groups or sites, a label that is a number where classes are needed, or a run
        that cannot learn across sites.
    """
    kind, label, needs = METHODS[config.method.name], config.task.label, config.method.needs
    if kind is Method:
        return Method(config)
    is_number = label in training.vocabulary("labels") and training.vocabulary("labels")[label] is None
    if kind in (Reweighing, Resampling) and is_number:
        raise UserError(f"--config.method.name={config.method.name} needs classes, and {label!r} is a number")
    own: dict[str, Any] = {"target": training.target(label)}
    if "group" in needs:
        found = trained(training, config.method.group)
        own |= {"groups": found, "code": found.code(training)}
    if "site" in needs:
        own["sites"] = federated.find_sites(config, training)
    return kind(config, **own)
