"""Where a run is computed: devices, the mesh over them, and the runner that compiles one pure step for it.

Nothing else in the project names a device. A step is a pure function of (state, batch); the runner decides how the
batch is split and where the state lives, and must not change a single number by deciding.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from engine.config import Run, UserError


class JitRunner:
    """One program over a one-axis mesh: the batch sharded along ``data``, the state replicated.

    Attributes:
      num_devices: how many devices share a batch; batch sizes must be a multiple of it.
      axis_name: None: sums over a batch are already global under ``jit``.
    """

    axis_name = None

    def __init__(self, num_devices: int = 0):
        devices = jax.devices()
        if num_devices > len(devices):
            raise UserError(f"--config.parallel.num_devices={num_devices}, but only {len(devices)} are here")
        self.num_devices = num_devices or len(devices)
        mesh = Mesh(np.array(devices[: self.num_devices]), ("data",))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("data"))

    def replicate(self, tree: Any) -> Any:
        """Places a tree of host arrays on every device."""
        return jax.device_put(tree, self._replicated)

    def abstract(self, tree: Any) -> Any:
        """Shapes, dtypes and this run's shardings of a state: what a checkpoint is restored onto."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), tree)

    def shard(self, batch: Any) -> Any:
        """Places a host batch (this process's part of it), split along its first axis."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self._split, x), batch)

    def train(self, step: Callable) -> Callable:
        """Compiles ``(state, batch) -> (state, metrics)``; the old state's memory is reused."""
        replicated, split = self._replicated, self._split
        return jax.jit(step, in_shardings=(replicated, split), out_shardings=replicated, donate_argnums=0)

    def predict(self, step: Callable) -> Callable:
        """Compiles ``(variables, batch) -> outputs``, the outputs gathered on every device."""
        return jax.jit(step, in_shardings=(self._replicated, self._split), out_shardings=self._replicated)


def make_runner(config: Run) -> JitRunner:
    """The runner that a configuration asks for; switches 64-bit arithmetic on where the model needs it."""
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    return {"jit": JitRunner}[config.parallel.mode](config.parallel.num_devices)


def num_hosts() -> int:
    """Processes in this job."""
    return jax.process_count()


def host_index() -> int:
    """Which of them this is; only host 0 writes."""
    return jax.process_index()


def describe() -> str:
    """One line for logs: how many devices of which kind on how many hosts."""
    devices = jax.devices()
    return f"{len(devices)} {devices[0].device_kind} device(s), {num_hosts()} host(s)"


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any], ahead: int = 2) -> Iterator[Any]:
    """Yields placed batches while the transfers of the next ``ahead`` are under way."""
    queue: collections.deque = collections.deque()
    for batch in batches:
        queue.append(place(batch))
        if len(queue) > ahead:
            yield queue.popleft()
    while queue:
        yield queue.popleft()
