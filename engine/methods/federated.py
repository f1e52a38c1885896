"""Learning across sites that never share images: models that are averaged, a model that travels, and both.

A site is a level of ``config.method.site`` that has images to train on; an image of unknown site belongs to none and is not
trained on. A cycle (or round) visits every site once. A visit of site k makes ``local_epochs`` passes over the site's n_k
images. Each pass shuffles them by (seed, cycle, epoch, site) and cuts them into ceil(n_k / b) batches of
b = ``data.batch_size`` images; the last batch has those that are left. Nothing is padded: an update on m images is that of a
batch of m, with the batch statistics of m images, by a program compiled for m. Learning-rate schedules count cycles, so that
every site of a cycle has the same rate, whatever its size and its place.

Which images an update sees, and which visit it ends, are functions of (seed, step); the rest is in ``TrainState.method``.
So a run that stops in the middle of a cycle goes on there, like any other run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int

from equipoise.engine import config as run_config
from equipoise.engine import hosts
from equipoise.engine.config import Run
from equipoise.engine.data import Split
from equipoise.engine.errors import UserError
from equipoise.engine.methods.base import Method, Step
from equipoise.engine.methods.groups import trained
from equipoise.engine.methods.tour import Rows, Tour, draws
from equipoise.engine.methods.unlearning import Unlearning
from equipoise.engine.update import optim
from equipoise.engine.update.state import TrainState
from equipoise.engine.update.sweep import Sweep

_NEAR = 1e-6  # below this distance the norm is smoothed


def find_sites(config: Run, training: Split) -> Rows:
    """For each site, the rows of its images in a training split.

    Raises:
      UserError: for an attribute that makes no sites, or a run that cannot cut a batch to the images of a site.
    """
    name = config.method.name
    if config.parallel.mode != "jit":
        raise UserError(
            f"--config.parallel.mode={config.parallel.mode}: {name} has batches of the sizes that its sites give, "
            "which do not divide among devices: choose jit"
        )
    if hosts.count() > 1:
        raise UserError(
            f"{name} has batches of the sizes that its sites give, which do not divide among processes: start one"
        )
    if config.optimizer.accumulate > 1:
        raise UserError(
            f"--config.optimizer.accumulate={config.optimizer.accumulate}: {name} has batches of the sizes that its "
            "sites give, which do not divide into microbatches: leave it at 1"
        )
    sites = trained(training, config.method.site, setting="site", least=1)
    code = sites.code(training)
    return tuple(np.flatnonzero(code == number) for number in range(len(sites.levels)))


@dataclasses.dataclass(frozen=True)
class Visiting(Method):
    """What all methods of learning across sites share.

    Attributes:
      sites: for each site, the rows of its training images, from :func:`find_sites`.
      averages: whether visits start from one global model and end in an average.
      starts_after: after this many updates every part of the method is in force.
    """

    sites: Rows = ()

    averages = False
    starts_after = 0

    def _tour(self, epochs: int, **more: Any) -> Tour:
        fixed = self.averages or self.config.method.fixed_order
        common = {"numbers": np.arange(len(self.sites)), "is_fixed": fixed, "is_round": self.averages}
        size, seed = self.config.data.batch_size, self.config.seed
        return Tour(self.sites, batch=size, epochs=epochs, seed=seed, **(common | more))

    @functools.cached_property
    def tours(self) -> tuple[Tour, ...]:
        """The tours that the run consists of, in their order."""
        return (self._tour(self.config.method.local_epochs),)

    @property
    def varies_by_seed(self) -> bool:
        """Whether the order of sites depends on the seed: then so do the sizes of batches."""
        return not all(tour.is_fixed for tour in self.tours)

    def _number(self, step: int) -> int:
        """Which of the tours update ``step`` is on."""
        return max(i for i, tour in enumerate(self.tours) if tour.start <= step)

    def _of(self, phase: str) -> Tour:
        """The tour of a phase."""
        return self.tours[int(phase.split("/")[1])]

    def updates(self, cycles: int) -> int:
        """How many updates a run of so many cycles has."""
        tour = max((tour for tour in self.tours if tour.first <= cycles), key=lambda tour: tour.first)
        return tour.start + (cycles - tour.first) * tour.updates

    def cycle(self, step: int) -> int | None:
        """How many cycles are complete after ``step`` updates; None in the middle of a cycle."""
        tour = self.tours[self._number(step)]
        return None if (step - tour.start) % tour.updates else tour.cycle(step)

    def cost(self, step: int, state: TrainState) -> dict[str, int]:
        """The fields of :class:`Communication` for the cycles that are complete."""
        return dataclasses.asdict(communication(self, state, self.tours[self._number(step)].cycle(step)))

    def resolved(self) -> Run:
        """The run with its number of cycles turned into updates; the sites' images say how many a cycle has.

        Raises:
          UserError: for ``pretrain_steps``, which this method does not count in.
        """
        method, unknown = self.config.method, len(self.target) - sum(map(len, self.sites))
        if method.pretrain_steps not in (0, self.starts_after):
            raise UserError(
                f"--config.method.pretrain_steps={method.pretrain_steps}: {method.name} counts in cycles; leave it out"
            )
        if unknown:
            logging.warning("%d training images of unknown %s are not trained on", unknown, method.site)
        for tour in self.tours:
            logging.info(
                "from cycle %d on: %d sites, %d updates a cycle", tour.first, len(tour.numbers), tour.updates
            )
        length = self.updates(method.cycles) if method.cycles else self.config.num_steps
        return run_config.replaced(
            self.config, **{"num_steps": length, "method.pretrain_steps": self.starts_after}
        )

    def rows(self, step: int) -> Int[np.ndarray, " m"]:
        """The images of an update, a pure function of (seed, step)."""
        return self.tours[self._number(step)].rows(step)

    def order(self) -> grain.MapDataset:
        """Draws visit after visit."""
        return draws(self.rows, self.config.data.batch_size)

    def phase(self, step: int) -> str:
        """``WHAT/TOUR/SIZE``: what is done, on which tour, with how many images."""
        return f"{super().phase(step)}/{self._number(step)}/{len(self.rows(step))}"

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """Cuts the batch to the images of the update, and puts learning-rate schedules at its cycle."""
        kind, _, size = phase.split("/")
        inner, tour = super().wrap(step, sweep, kind), self._of(phase)

        def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
            optimizers = (state.opt_state, state.method)
            opt_state, method_state = optim.at(optimizers, tour.cycle(state.step))
            batch = jax.tree.map(lambda x: x[: int(size)], batch)
            return inner(state.replace(opt_state=opt_state, method=method_state), batch)

        return train_step

    def luggage(self, state: TrainState) -> tuple[Any, Any]:
        """What travels with a model: (tensors of networks, tensors of optimizers)."""
        return _network(state), state.opt_state


class Travelling(Visiting):
    """One model travels from site to site, ``w <- LocalTrain(w, site)``, and takes its optimizer along.

    Every cycle visits the sites in another order, shuffled by (seed, cycle). Souza et al. 2024, Frontiers in
    Artificial Intelligence 7:1301997, doi 10.3389/frai.2024.1301997.
    """


class HarmonyTM(Travelling, Unlearning):
    """A travelling model that unlearns its scanner: every batch makes unlearning's three updates.

    First ``pretrain_cycles`` train the model alone, then ``head_cycles`` the group head alone, while the model is held. All
    optimizers travel. Souza et al. 2024, Journal of Medical Imaging 11:054502, doi 10.1117/1.JMI.11.5.054502; the updates
    are those of :class:`equipoise.engine.methods.unlearning.Unlearning`.
    """

    @property
    def starts(self) -> tuple[int, int]:
        """Updates before the group head learns, and before the model unlearns."""
        method = self.config.method
        return self.updates(method.pretrain_cycles), self.updates(method.pretrain_cycles + method.head_cycles)

    @property
    def starts_after(self) -> int:
        """Updates before the model unlearns."""
        return self.starts[1]

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """Unlearning's updates, except that the model is held while the head is trained alone."""

        def hold(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
            return state.replace(step=state.step + 1), {}

        return super().wrap(hold if phase.startswith("head/") else step, sweep, phase)

    def luggage(self, state: TrainState) -> tuple[Any, Any]:
        """Network and group head, and the three optimizers."""
        network, opt_state = super().luggage(state)
        method = state.method
        return (network, method["head"]), (opt_state, method["head_opt"], method["confusion_opt"])


class FedAvg(Visiting):
    """Makes rounds of ``w <- sum_k a_k LocalTrain(w, k)`` over the sites k, for parameters and running statistics.

    a_k = 1/K (``site_weights=equal``) or n_k/n (``size``). At every visit the optimizer starts afresh. In the middle of a
    round, predictions are those of the global model after the last complete round. McMahan et al. 2017, arXiv:1602.05629,
    algorithm 1.
    """

    averages = True

    @functools.cached_property
    def shares(self) -> Float[np.ndarray, " k"]:
        """a_k of every site that takes part in rounds."""
        sizes = np.array([len(self.sites[k]) for k in self.tours[0].numbers], np.float64)
        weights = sizes if self.config.method.site_weights == "size" else np.ones_like(sizes)
        return weights / weights.sum()

    def init(self, state: TrainState, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """The global model, and the weighted sum over the sites visited in this round."""
        network = _network(state)
        return {"global": jax.tree.map(jnp.copy, network), "total": jax.tree.map(jnp.zeros_like, network)}

    def wrap(self, step: Step, sweep: Sweep, phase: str) -> Step:
        """Adds what happens at the end of a visit, after its last update."""
        inner = super().wrap(step, sweep, phase)
        if not self._of(phase).is_round:
            return inner

        def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
            state, metrics = inner(state, batch)
            return self._after(state), metrics

        return train_step

    def _after(self, state: TrainState) -> TrainState:
        """Adds the model of a visit that is over to the sum, and starts the next from the global model, new after a round."""
        rounds = self.tours[0]
        ends = jnp.asarray(np.cumsum(rounds.lengths))
        done = (state.step - 1) % rounds.updates + 1
        visit = jnp.searchsorted(ends, done)
        share, is_last = jnp.asarray(self.shares)[visit], visit == len(ends) - 1
        optimizer = optim.make(self.config.optimizer)

        def hand_over(state: TrainState) -> TrainState:
            total = jax.tree.map(
                lambda t, x: t + share.astype(x.dtype) * x, state.method["total"], _network(state)
            )
            common = jax.tree.map(lambda t, g: jnp.where(is_last, t, g), total, state.method["global"])
            total = jax.tree.map(lambda t: jnp.where(is_last, jnp.zeros_like(t), t), total)
            fresh = optimizer.init(common["params"])
            return state.replace(**common, opt_state=fresh, method={"global": common, "total": total})

        return jax.lax.cond(ends[visit] == done, hand_over, lambda state: state, state)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The global model."""
        return dict(state.method["global"])


class FedProx(FedAvg):
    """Federated averaging that pulls every site's parameters w towards the global ones, w_g.

    The loss of a visit has the further term ``mu/2 ||w - w_g||^2`` (``proximal=squared``; Li et al. 2020, arXiv:1812.06127,
    equation 2) or ``mu sum_l ||w_l - w_g,l||`` over the parameter tensors l (``norm``). The gradient of the
    latter has length mu however little a tensor has moved, and is zero where it has not moved: within 1e-6 it rises
    linearly, so that a tensor which only rounding moves is not pulled. The reported loss is without the term, the reported
    norm of the gradient with it.
    """

    def gradient(self, grads: Any, state: TrainState, phase: str) -> Any:
        """The gradient of the loss plus that of the proximal term."""
        if not self._of(phase).is_round:
            return grads
        method = self.config.method

        def pull(grad: Array, local: Array, common: Array) -> Array:
            away = local - common
            if method.proximal == "norm":
                away = away / jnp.maximum(jnp.sqrt(jnp.square(away).sum()), _NEAR)
            return grad + method.mu * away

        return jax.tree.map(pull, grads, state.params, state.method["global"]["params"])


class FedTM(FedProx):
    """Warms a model up in rounds over the large sites; then it travels over all sites.

    First ``warm_rounds`` of federated averaging (FedProx where ``mu`` is above 0), of ``warm_epochs`` each, over the sites with
    at least ``min_scans`` images of more than one class; then the cycles of a travelling model, which starts from the last
    average with a fresh optimizer. Souza et al. 2026, npj Digital Medicine 9:294, doi 10.1038/s41746-026-02483-y.
    """

    @functools.cached_property
    def tours(self) -> tuple[Tour, Tour]:
        """The rounds, then the cycles."""
        method = self.config.method
        least = min(len(np.unique(self.target)), 2)  # masks count as one class
        mixed = [k for k, rows in enumerate(self.sites) if len(np.unique(self.target[rows])) >= least]
        large = [k for k in mixed if len(self.sites[k]) >= method.min_scans]
        if not large:
            most = max((len(self.sites[k]) for k in mixed), default=0)
            raise UserError(
                f"--config.method.min_scans={method.min_scans}: no site with more than one class has that many images to "
                f"train on; the largest has {most}"
            )
        rounds = self._tour(method.warm_epochs, numbers=np.array(large))
        return rounds, self._tour(
            method.local_epochs,
            is_fixed=method.fixed_order,
            is_round=False,
            start=method.warm_rounds * rounds.updates,
            first=method.warm_rounds,
        )

    @property
    def starts_after(self) -> int:
        """How many updates come before the model travels."""
        return self.tours[1].start

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The global model during rounds, then the model that travels."""
        is_warm = state.step < self.tours[1].start
        return jax.tree.map(lambda g, x: jnp.where(is_warm, g, x), super().variables(state), _network(state))


def _network(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "batch_stats": state.batch_stats}


@dataclasses.dataclass(frozen=True)
class Communication:
    """What a run across sites costs its network.

    Attributes:
      cycles: rounds and cycles.
      transfers: how often a model is sent: to a site and back in every visit of a round, to the next site when it travels.
      network_bytes: bytes sent for networks: parameters and running statistics, and a group head where there is one.
      optimizer_bytes: bytes sent for the optimizers that travel along.
    """

    cycles: int
    transfers: int
    network_bytes: int
    optimizer_bytes: int


def communication(method: Visiting, state: TrainState, cycles: int) -> Communication:
    """What a run's first cycles cost.

    Args:
      method: the run's method.
      state: the run's state; shapes are enough (:meth:`equipoise.engine.training.machine.Machine.abstract`).
      cycles: how many rounds and cycles.
    """
    network, optimizer = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) for tree in method.luggage(state)
    )
    ends = [*(tour.first for tour in method.tours[1:]), cycles]
    visits = {True: 0, False: 0}
    for tour, end in zip(method.tours, ends, strict=True):
        visits[tour.is_round] += max(min(end, cycles) - tour.first, 0) * len(tour.numbers)
    transfers = 2 * visits[True] + visits[False]
    return Communication(cycles, transfers, transfers * network, visits[False] * optimizer)
