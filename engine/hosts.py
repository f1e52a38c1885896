"""The processes of a job that compute together: how many there are, which one this is, what all of them agree on.

One process without others is a job too: every function answers at once.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils

from equipoise.engine.errors import UserError


def join(coordinator: str | None, num_hosts: int | None, host: int | None) -> None:
    """Makes this process one of several that compute together; call it before anything touches a device.

    Args:
      coordinator: ``address:port`` of host 0; None: the cluster says it (Slurm, Open MPI, TPU pods, Kubernetes).
      num_hosts: processes in the job; None: the cluster says it.
      host: index of this one; None: the cluster says it.

    Raises:
      UserError: when the cluster does not say, or the others do not come.
    """
    try:
        jax.distributed.initialize(coordinator, num_hosts, host)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot join the other processes: {str(error).strip().splitlines()[0]} Outside a cluster that JAX knows, "
            "give --coordinator=HOST:PORT --num_processes=N --process_id=I to each process."
        ) from error


def count() -> int:
    """Processes in this job."""
    return jax.process_count()


def index() -> int:
    """Which of them this is, from 0."""
    return jax.process_index()


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return index() == 0


def agree(flag: bool) -> bool:
    """Whether the flag is set on any host, so that all of them do the same; every host must ask at the same step."""
    if count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def wait(name: str) -> None:
    """Returns when every host has come to the point of that name."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def whole(array: jax.Array) -> np.ndarray:
    """All values of an array, on every host, however it is spread over devices and hosts; every host must ask for it.

    A host that holds a copy of all values asks no other.
    """
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    if not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    values = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            values[shard.index] = np.asarray(shard.data)
    return values
