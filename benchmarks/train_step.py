"""Whole training steps on the CPU (forward, backward, AdamW), float32: this project against PyTorch.

    python benchmarks/train_step.py [--rounds=5] [--only=TEXT]

Ours is the step that `equipoise train` runs: equipoise.engine.training.step.make_train_step, compiled by the runner, the old state's memory
reused. PyTorch's is an eager loop over the same layers, widths and optimizer, in its default memory layout and in
channels_last. Both start from the same stored bytes, use every core, and get their large buffers in huge pages: the
program starts itself again with GLIBC_TUNABLES=glibc.malloc.hugetlb=1, as the demo does. The closing line is of the
network where we do worst; ratio is our time over that of PyTorch's default layout.

What limits us on a CPU is the width of vectors: on a processor with AVX-512, which oneDNN uses and XLA's convolutions do not, the ratios were
1.59, 1.23, 1.83 and 0.87; with ONEDNN_MAX_CPU_ISA=AVX2 on the same machine 1.10, 1.06, 1.11 and 0.66.
"""

import argparse
import math
import os
import pathlib
import sys
from collections.abc import Callable

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # as a program: the project is above

from benchmarks import common
from equipoise.engine import mesh, models
from equipoise.engine.config import Data, Model, Optimizer, Run, Task
from equipoise.engine.training.step import init_state, make_train_step
from equipoise.engine.update import optim
from equipoise.tasks.kinds.classification import Classification

NETWORKS = {  # model, its fields, batch, [*spatial, channel]
    "SFCN": ("sfcn", {}, 4, (64, 64, 64, 1)),
    "CNN 8-16-32-64, flatten (SimBA)": (
        "cnn",
        {"features": (8, 16, 32, 64), "head": "flatten"},
        16,
        (40, 56, 48, 1),
    ),
    "CNN 16-32-64-128-256": ("cnn", {"features": (16, 32, 64, 128, 256)}, 4, (64, 64, 64, 1)),
    "CNN 32-64-128-256, 2D": ("cnn", {"features": (32, 64, 128, 256)}, 16, (224, 224, 3)),
}
RATE, DECAY = 1e-3, 1e-2


def stored(batch: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random images as a cohort stores them, and targets."""
    images = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
    return images, np.arange(batch, dtype=np.int32) % 2


def our_step(name: str, fields: dict, batch: int, shape: tuple[int, ...]) -> Callable[[], object]:
    """One update under the runner; every call goes on from the state of the last."""
    config = Run(
        data=Data(cohort="random", batch_size=batch, preprocess=""),
        task=Task(label="target"),
        model=Model(name=name, args=fields),
        optimizer=Optimizer(name="adamw", learning_rate=RATE, weight_decay=DECAY),
    )
    runner = mesh.make_runner(config)
    model = models.build(name, num_outputs=2, **fields)
    optimizer = optim.make(config.optimizer)
    task = Classification("target", ("absent", "present"), "present")
    step = runner.train(make_train_step(config, model, task, optimizer, runner.axis_name))
    images, targets = stored(batch, shape)
    placed = runner.shard(
        {
            "image": images,
            "scale": np.tile(np.float32([1 / 255, 0]), (batch, 1)),
            "target": targets,
            "weight": np.ones(batch, np.float32),
            "position": np.arange(batch, dtype=np.int32),
        }
    )
    state = runner.replicate(init_state(config, model, optimizer, shape))

    def call() -> object:
        nonlocal state
        state, metrics = step(state, placed)
        return state, metrics

    return call


def torch_network(name: str, fields: dict, shape: tuple[int, ...]) -> "torch.nn.Module":
    """The same layers in the same order; convolutions have no bias, as ours."""
    import torch
    from torch import nn

    *spatial, width = shape
    rank = len(spatial)
    conv, norm, max_pool, avg_pool, global_pool = (
        getattr(nn, f"{kind}{rank}d")
        for kind in ("Conv", "BatchNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool")
    )
    features = models.build(name, num_outputs=2, **fields).features
    layers: list[nn.Module] = []
    for number, out in enumerate(features, start=1):
        is_narrow = name == "sfcn" and number == len(features)
        layers += [conv(width, out, 1 if is_narrow else 3, padding=0 if is_narrow else 1, bias=False)]
        layers += [norm(out)]
        layers += [] if is_narrow else [max_pool(2)]
        layers += [nn.ReLU()]
        spatial = spatial if is_narrow else [n // 2 for n in spatial]
        width = out
    is_flat = fields.get("head") == "flatten"
    layers += [avg_pool(2) if is_flat else global_pool(1), nn.Flatten()]
    layers += [nn.Dropout(0.5)] if name == "sfcn" else []
    inputs = width * math.prod(n // 2 for n in spatial) if is_flat else width
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Linear(inputs, 2))


def torch_step(
    name: str, fields: dict, batch: int, shape: tuple[int, ...], channels_last: bool
) -> Callable[[], object]:
    """One update of PyTorch."""
    import torch

    layout = torch.contiguous_format
    if channels_last:
        layout = torch.channels_last if len(shape) == 3 else torch.channels_last_3d
    net = torch_network(name, fields, shape).to(memory_format=layout)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY, fused=True)
    images, targets = stored(batch, shape)
    images = torch.from_numpy(np.moveaxis(images, -1, 1)).contiguous(memory_format=layout)
    targets = torch.from_numpy(targets).long()

    def call() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(images.float() * (1 / 255)), targets)
        loss.backward()
        optimizer.step()

    return call


def main() -> None:
    """Prints a table and the closing line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="timed calls of each side, taken in turns")
    parser.add_argument("--only", default="", help="networks whose name holds this text")
    args = parser.parse_args()
    torch = common.require("torch")
    common.restart_on_cpu()
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{common.machine()}, torch {torch.__version__}; {common.load()}")
    sides = ("ours", "torch", "torch channels_last")
    print(
        f"{f'milliseconds per step, least of {args.rounds}':52s}"
        + "".join(f"{s:>21s}" for s in sides)
        + "  ratio"
    )
    worst = None
    for title, (name, fields, batch, shape) in NETWORKS.items():
        if args.only not in title:
            continue
        calls = {
            "ours": our_step(name, fields, batch, shape),
            "torch": torch_step(name, fields, batch, shape, channels_last=False),
            "torch channels_last": torch_step(name, fields, batch, shape, channels_last=True),
        }
        times = common.fastest(calls, args.rounds)
        ratio = times["ours"] / times["torch"]
        row = f"{title}, {batch} x {'x'.join(map(str, shape))}"
        print(
            f"{row:52s}" + "".join(f"{times[s] * 1e3:21.1f}" for s in sides) + f"  {ratio:5.2f}", flush=True
        )
        if worst is None or ratio > worst[0]:
            worst = ratio, title, times
    if worst is None:
        sys.exit(f"no network's name holds {args.only!r}; there are: {', '.join(NETWORKS)}")
    print(common.load())
    _, title, times = worst
    common.report(f"train_step: {title} vs torch", times["ours"], times["torch"], "seconds")


if __name__ == "__main__":
    main()
