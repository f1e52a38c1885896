"""Activations of the blocks of a trained model for every image of a split, streamed to disk.

Every network of the engine returns its blocks by name (``block1``, ..., ``pooled``). Blocks that nobody asks for are not computed.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from equipoise.engine import data, hosts, mesh
from equipoise.engine.config import fingerprint
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.training.machine import Machine
from equipoise.engine.update.preprocess import make_preprocess
from equipoise.engine.update.state import TrainState


def names(machine: Machine) -> dict[str, int]:
    """Block -> number of its values for one image, in the order of the network."""

    def apply() -> dict[str, Array]:
        images = jax.numpy.zeros((1, *machine.image_shape), machine.config.model.dtype)
        return machine.model.init_with_output(jax.random.key(0), images, train=False)[0][1]

    return {name: int(np.prod(block.shape[1:])) for name, block in jax.eval_shape(apply).items()}


def choose(machine: Machine, wanted: Sequence[str]) -> dict[str, int]:
    """The blocks that are asked for, by default all, as in :func:`names`.

    Raises:
      UserError: for a block that the network does not have.
    """
    known = names(machine)
    for name in wanted:
        if name not in known:
            raise UserError(
                f"the network {machine.config.model.name!r} has no block {name!r}.{did_you_mean(name, known)} It has: {', '.join(known)}"
            )
    return {name: size for name, size in known.items() if name in wanted or not wanted}


def stream(
    machine: Machine,
    state: TrainState,
    split: data.Split,
    folder: pathlib.Path,
    blocks: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Writes the activations of each block to ``folder/BLOCK.npy``, and opens the files.

    Args:
      machine: of the run.
      state: the state whose parameters are used.
      split: of a prepared cohort.
      folder: the folder to write to. Files that it holds for the same checkpoint and split are used as they are.
      blocks: names of blocks; by default all.
      progress: called with (images done, images in all).

    Returns:
      Block -> memory-mapped float32 [n, values], rows in the split's storage order.

    Raises:
      UserError: for a block that the network does not have, or when several processes compute together.
    """
    if hosts.count() > 1:
        raise UserError("features are written by one process: leave out --distributed")
    chosen = choose(machine, blocks)
    mark = {
        "run": fingerprint(machine.config),
        "step": int(state.step),
        "cohort": split.cohort,
        "split": split.name,
        "images": len(split),
    }
    seal = folder / "features.json"
    paths = {name: folder / f"{name}.npy" for name in chosen}
    kept = json.loads(seal.read_text()) if seal.exists() else None
    if kept != mark or not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        seal.unlink(missing_ok=True)
        _write(machine, state, split, paths, chosen, progress)
        seal.write_text(json.dumps(mark))
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def _write(
    machine: Machine,
    state: TrainState,
    split: data.Split,
    paths: dict[str, pathlib.Path],
    sizes: dict[str, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Writes one pass over the split."""
    preprocess, model, method = make_preprocess(machine.config), machine.model, machine.method

    def step(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        activations = method.predict(model, variables, preprocess(batch)["image"], batch)[1]
        flat = {
            name: activations[name].reshape(len(activations[name]), -1).astype(np.float32) for name in sizes
        }
        return {"index": batch["index"], **flat}

    predict = machine.runner.predict(step)
    variables = method.variables(state)
    files = {
        name: np.lib.format.open_memmap(path, "w+", np.float32, (len(split), sizes[name]))
        for name, path in paths.items()
    }
    done = 0
    for batch in mesh.prefetch(machine.eval_batches(split), machine.runner.shard):
        out = jax.device_get(predict(variables, batch))
        real = out["index"] >= 0
        for name, file in files.items():
            file[out["index"][real]] = out[name][real]
        done += int(real.sum())
        if progress:
            progress(done, len(split))
    for file in files.values():
        file.flush()
