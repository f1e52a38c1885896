"""Small models trained at once, as one program, against the same runs one after the other.

    python benchmarks/population.py [--members=16] [--size=16] [--batch=8] [--rounds=5] [--form=auto]

Both sides are this project's own: an equipoise.engine.training.population machine, in the form that it takes on these devices (mapped over
models on accelerators, by turns on a CPU), and equipoise.engine.training.machine.Machine's step called for every run in turn. Batches are on the device before the clock starts. The closing line
compares one update of all members; ratio is the population's time over that of the separate runs. Compilation is timed
beside it: the population compiles once, where separate runs compile each in its own process.
"""

import argparse
import pathlib
import sys
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # as a program: the project is above

from benchmarks import common
from equipoise.engine import config as run_config
from equipoise.engine.config import Data, Model, Optimizer, Run, Task
from equipoise.engine.training import population
from equipoise.engine.training.machine import Machine
from equipoise.tasks.kinds.classification import Classification

FEATURES = (8, 16, 32)


class RandomSplit:
    """What a machine asks of a training split, without a cohort."""

    cohort, name = "random", "train"

    def __init__(self, size: int):
        self.image_shape = (size, size, size, 1)


def main() -> None:
    """Prints times and the closing line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=16, help="models trained at once")
    parser.add_argument("--size", type=int, default=16, help="voxels along each side of an image")
    parser.add_argument("--batch", type=int, default=8, help="images in a member's batch")
    parser.add_argument("--form", default="auto", help="of the population: mapped, turns, auto")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each side, taken in turns")
    args = parser.parse_args()
    config = Run(
        data=Data(cohort="random", batch_size=args.batch, preprocess=""),
        task=Task(label="target"),
        model=Model(args={"features": FEATURES}),
        optimizer=Optimizer(name="adamw", weight_decay=1e-2),
        population=run_config.Population(seeds=args.members, form=args.form),
    )
    task = Classification("target", ("absent", "present"), "present")
    split = RandomSplit(args.size)
    together = population.make(config, task, split)
    alone = Machine(run_config.replaced(together.members[0], **{"parallel.num_devices": 1}), task, split)
    draw = np.random.default_rng(0)
    count = args.members
    batches = [
        {
            "image": draw.integers(0, 256, (args.batch, *split.image_shape), np.uint8),
            "scale": np.tile(np.float32([1 / 255, 0]), (args.batch, 1)),
            "target": np.arange(args.batch, dtype=np.int32) % 2,
            "weight": np.ones(args.batch, np.float32),
            "position": np.arange(args.batch, dtype=np.int32),
        }
        for _ in range(count)
    ]
    own, batch = alone.runner.shard(batches), together.runner.shard(batches)
    state, states = together.init(), together.split(together.init())

    def one_program() -> object:
        nonlocal state
        state, metrics = together.train_step(0)(state, batch)
        return metrics

    def one_by_one() -> object:
        results = [alone.train_step(0)(s, b) for s, b in zip(states, own, strict=True)]
        states[:] = [s for s, _ in results]
        return [metrics for _, metrics in results]

    print(f"{common.machine()}; {common.load()}")
    for name, call in (("one program", one_program), ("one run", one_by_one)):
        start = time.perf_counter()
        jax.block_until_ready(call())
        print(f"{name:12s} compiled and called in {time.perf_counter() - start:6.1f} s", flush=True)
    found = common.fastest({"together": one_program, "one by one": one_by_one}, args.rounds)
    print(f"one update of {count} models, {args.batch} x {args.size}^3, least of {args.rounds}:")
    for name, seconds in found.items():
        print(f"  {name:12s} {1e3 * seconds:8.1f} ms")
    print(common.load())
    common.report(f"population of {count}", found["together"], found["one by one"], "seconds")


if __name__ == "__main__":
    main()
