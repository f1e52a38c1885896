"""Where a run is computed: devices, the mesh over them, and the runner that compiles a pure step for the mesh.

Nothing else in the project names a device; the processes that share them are in :mod:`equipoise.engine.hosts`. A step is a
pure function of (state, batch). The runner decides how the batch is split and where the state lives, and its decision must
not change a single number.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from equipoise.engine import hosts
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError


class JitRunner:
    """One program over a one-axis mesh: the batch sharded along ``data``, the state replicated.

    Attributes:
      num_devices: how many devices share a batch; batch sizes must be a multiple of it.
      axis_name: the mapped axis over which a step must sum; None: sums are global already, as under ``jit``.
    """

    axis_name = None

    def __init__(self, num_devices: int = 0):
        devices = jax.devices()
        if num_devices > len(devices):
            raise UserError(f"--config.parallel.num_devices={num_devices}, but only {len(devices)} are here")
        self.num_devices = num_devices or len(devices)
        if hosts.count() > 1 and self.num_devices < len(devices):
            raise UserError(
                f"{hosts.count()} hosts use all their devices: leave --config.parallel.num_devices at 0"
            )
        self._devices = devices[: self.num_devices]
        self._mesh = Mesh(np.array(self._devices), ("data",))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec("data"))

    def replicate(self, tree: Any) -> Any:
        """Places a tree of host arrays on every device."""
        return jax.device_put(tree, self._replicated)

    def abstract(self, tree: Any) -> Any:
        """Shapes, dtypes and shardings of a state on this runner's devices, for a checkpoint to be restored onto."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), tree)

    def shard(self, batch: Any) -> Any:
        """Places this process's part of a host batch on the devices, split along its first axis."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self._split, x), batch)

    def train(self, step: Callable) -> Callable:
        """Compiles ``(state, batch) -> (state, metrics)``; the new state reuses the memory of the old one."""
        replicated, split = self._replicated, self._split
        return jax.jit(step, in_shardings=(replicated, split), out_shardings=replicated, donate_argnums=0)

    def predict(self, step: Callable) -> Callable:
        """Compiles ``(variables, batch) -> outputs``; every device gets all outputs."""
        return jax.jit(step, in_shardings=(self._replicated, self._split), out_shardings=self._replicated)

    def each(self, function: Callable) -> Callable:
        """Compiles ``(shared, batch) -> outputs`` from ``function(shared, example)``, a function of one example.

        Outputs stay on the device that made them. A CPU takes its examples one by one, since gathers over a batch run at half
        the speed there; an accelerator takes them all at once.
        """
        one_by_one = self._devices[0].platform == "cpu"

        def part(shared: Any, batch: Any) -> Any:
            of_example = functools.partial(function, shared)
            return jax.lax.map(of_example, batch) if one_by_one else jax.vmap(of_example)(batch)

        specs = (PartitionSpec(), PartitionSpec("data"))
        return jax.jit(jax.shard_map(part, mesh=self._mesh, in_specs=specs, out_specs=specs[1]))


class PmapRunner(JitRunner):
    """One program per device: each sees its part of the batch, and the step itself sums over ``axis_name``.

    A state lies on the devices as it does under :class:`JitRunner`, so that a run can go on under the other runner.
    """

    axis_name = "data"

    def shard(self, batch: Any) -> Any:
        """Places a host batch as [devices, examples of a device, ...]."""
        here = self.num_devices // hosts.count()
        return super().shard(jax.tree.map(lambda x: x.reshape(here, -1, *x.shape[1:]), batch))

    def _map(self, step: Callable, **options: Any) -> Callable:
        mapped = jax.pmap(
            step, self.axis_name, in_axes=(None, 0), out_axes=None, devices=self._devices, **options
        )
        if hosts.count() == 1:
            return mapped
        return lambda state, batch: jax.tree.map(self._as_global, mapped(state, batch))

    def _as_global(self, x: jax.Array) -> jax.Array:
        """Makes one array of the whole mesh from the copies that the hosts hold, so that it can be saved; copies nothing."""
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, self._replicated, parts)

    def train(self, step: Callable) -> Callable:
        """Compiles ``(state, batch) -> (state, metrics)`` from a step that sums over ``axis_name``."""
        return self._map(step, donate_argnums=0)

    def predict(self, step: Callable) -> Callable:
        """Compiles ``(variables, batch) -> outputs``; every device gets all outputs."""
        gather = functools.partial(jax.lax.all_gather, axis_name=self.axis_name, tiled=True)
        return self._map(lambda variables, batch: jax.tree.map(gather, step(variables, batch)))


class MemberRunner(JitRunner):
    """One program mapped over a population of models: members lie along the devices and share nothing."""

    def __init__(self, count: int, num_devices: int = 0):
        """Chooses the devices; by default as many as share the members evenly.

        Args:
          count: number of members.
          num_devices: how many devices to use; 0: the default.

        Raises:
          UserError: when the members do not divide among the devices.
        """
        present = len(jax.devices())
        if not num_devices:
            num_devices = max(n for n in range(1, present + 1) if count % n == 0)
        super().__init__(num_devices)
        if count % num_devices:
            raise UserError(f"a population of {count} does not divide among {num_devices} devices")

    def place(self, tree: Any) -> Any:
        """Places a tree of arrays whose first axis is the members."""
        return jax.device_put(tree, self._split)

    def shard(self, batch: Any) -> Any:
        """Places a list of trees of host arrays, one for each member."""
        return self.place(jax.tree.map(lambda *x: np.stack(x), *batch))

    def train(self, step: Callable) -> Callable:
        """Compiles ``(states, batches) -> (states, metrics)``, all by member; new states reuse the memory of the old."""
        split = self._split
        return jax.jit(step, in_shardings=(split, split), out_shardings=split, donate_argnums=0)

    def predict(self, step: Callable) -> Callable:
        """Compiles ``(variables by member, batch) -> outputs``; every device gets all outputs."""
        return jax.jit(step, in_shardings=(self._split, self._replicated), out_shardings=self._replicated)


RUNNERS = {"jit": JitRunner, "pmap": PmapRunner}


def make_runner(config: Run) -> JitRunner:
    """The runner that a configuration asks for; it switches 64-bit arithmetic on where the model needs it.

    Raises:
      UserError: when there are fewer devices than asked for, or a batch does not divide among them.
    """
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    runner = RUNNERS[config.parallel.mode](config.parallel.num_devices)
    parts = runner.num_devices * config.optimizer.accumulate
    if config.data.batch_size % parts:
        raise UserError(
            f"--config.data.batch_size={config.data.batch_size} does not divide among {runner.num_devices} devices"
            + f" x {config.optimizer.accumulate} microbatches" * (config.optimizer.accumulate > 1)
        )
    return runner


def has_accelerator() -> bool:
    """Whether the devices are anything but CPUs."""
    return jax.default_backend() != "cpu"


def describe() -> str:
    """One line for logs: how many devices of which kind on how many hosts."""
    devices = jax.devices()
    return f"{len(devices)} {devices[0].device_kind} device(s), {hosts.count()} host(s)"


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any], ahead: int = 2) -> Iterator[Any]:
    """Yields placed batches while the transfers of the next ``ahead`` are under way."""
    queue: collections.deque = collections.deque()
    for batch in batches:
        queue.append(place(batch))
        if len(queue) > ahead:
            yield queue.popleft()
    while queue:
        yield queue.popleft()
