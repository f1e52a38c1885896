"""Our 3D layers against XLA's plain ones (flax.linen) and, where it is installed, PyTorch.

    python benchmarks/conv3d.py [--rounds=5] [--quick]

First every convolution of the networks, forward and backward by itself; then whole training steps (forward, backward,
SGD). The closing line compares the training step of a five-block network at 4 x 64^3 with PyTorch's, or with flax's
where PyTorch is not installed. Run it with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 too: every large intermediate is
fresh memory, and huge pages save most of what mapping it costs, for both sides.
"""

import argparse
import os
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # as a program: the project is above

from benchmarks import common
from equipoise.engine import models
from equipoise.engine.models import layers
from equipoise.engine.update import losses

try:
    import torch
except ImportError:
    torch = None

LAYERS = [  # batch, spatial shape, channels in, channels out
    (16, (40, 48, 40), 1, 16),
    (16, (20, 24, 20), 16, 32),
    (16, (10, 12, 10), 32, 64),
    (16, (5, 6, 5), 64, 64),
    (4, (64, 64, 64), 1, 32),
    (4, (32, 32, 32), 32, 64),
    (4, (16, 16, 16), 64, 128),
    (4, (8, 8, 8), 128, 256),
    (4, (4, 4, 4), 256, 256),
]
NETWORKS = {  # model, its fields, batch, spatial shape
    "cnn 16-32-64-64": ("cnn", {"features": (16, 32, 64, 64)}, 16, (40, 48, 40)),
    "cnn 16-32-64-128-256": ("cnn", {"features": (16, 32, 64, 128, 256)}, 4, (64, 64, 64)),
    "sfcn": ("sfcn", {"dropout": 0.0}, 4, (64, 64, 64)),
}
HEADLINE = "cnn 16-32-64-128-256"


class Plain(nn.Module):
    """The same networks as a user of flax would write them."""

    features: tuple[int, ...]
    is_sfcn: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, 2]."""
        for number, width in enumerate(self.features, start=1):
            last = self.is_sfcn and number == len(self.features)
            x = nn.Conv(width, (1 if last else 3,) * 3, use_bias=False, name=f"conv{number}")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{number}")(x)
            x = nn.relu(x if last else nn.max_pool(x, (2, 2, 2), (2, 2, 2)))
        return nn.Dense(2, name="head")(x.mean((1, 2, 3)))


def convolution_calls(batch: int, shape: tuple[int, ...], c: int, k: int) -> dict:
    """Forward and backward of one layer; the first layer of a network needs no gradient of its input."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, *shape, c))
    kernel = jax.random.normal(keys[1], (3, 3, 3, c, k)) / (27 * c) ** 0.5
    probe = jax.random.normal(keys[2], (batch, *shape, k))
    wanted = (0,) if c == 1 else (0, 1)

    def make(convolution):
        def total(kernel, x, probe):
            return (convolution(x, kernel) * probe).sum()

        step = jax.jit(jax.value_and_grad(total, wanted))
        return lambda: step(kernel, x, probe)

    calls = {"ours": make(layers.convolution), "flax": make(layers.plain_convolution)}
    if torch:
        tx = torch.randn(batch, c, *shape, requires_grad=c > 1)
        tk, tp = torch.randn(k, c, 3, 3, 3, requires_grad=True), torch.randn(batch, k, *shape)
        inputs = [tk, tx] if c > 1 else [tk]
        calls["torch"] = lambda: (
            torch.autograd.grad((torch.conv3d(tx, tk, padding=1) * tp).sum(), inputs) and None
        )
    return calls


def _torch_step(features: tuple[int, ...], is_sfcn: bool, batch: int, shape: tuple[int, ...]):
    blocks, width = [], 1
    for number, out in enumerate(features, start=1):
        last = is_sfcn and number == len(features)
        size = 1 if last else 3
        blocks += [
            torch.nn.Conv3d(width, out, size, padding=size // 2, bias=False),
            torch.nn.BatchNorm3d(out),
        ]
        blocks += [] if last else [torch.nn.MaxPool3d(2)]
        blocks += [torch.nn.ReLU()]
        width = out
    net = torch.nn.Sequential(
        *blocks, torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(width, 2)
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    images, labels = torch.randn(batch, 1, *shape), torch.arange(batch) % 2

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return step


def step_calls(name: str, fields: dict, batch: int, shape: tuple[int, ...]) -> dict:
    """Whole training steps of one network, ours and plain, from the same parameters."""
    model = models.build(name, num_outputs=2, **fields)
    is_sfcn = name == "sfcn"
    plain = Plain(model.features, is_sfcn)
    images = jax.random.normal(jax.random.key(0), (batch, *shape, 1))
    labels = jnp.arange(batch) % 2
    variables = jax.jit(model.init)(jax.random.key(1), images)

    def make(apply):
        def loss(params, stats):
            logits, updated = apply({"params": params, "batch_stats": stats})
            return losses.softmax_cross_entropy(logits, labels).mean(), updated["batch_stats"]

        @jax.jit
        def step(params, stats):
            (_, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats)
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), stats

        return lambda: step(variables["params"], variables["batch_stats"])

    def ours(v):
        (logits, _), updated = model.apply(v, images, train=True, mutable=["batch_stats"])
        return logits, updated

    calls = {
        "ours": make(ours),
        "flax": make(lambda v: plain.apply(v, images, True, mutable=["batch_stats"])),
    }
    if torch:
        calls["torch"] = _torch_step(model.features, is_sfcn, batch, shape)
    return calls


def main() -> None:
    """Prints a table and the closing line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only the network of the closing line")
    args = parser.parse_args()
    print(f"{common.machine()}; {common.load()}; GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')}")
    if torch is None:
        print("PyTorch is not installed (extra [bench]): the peer is XLA's plain form, as flax.linen uses it")
    else:
        torch.set_num_threads(os.cpu_count() or 1)
    print(f"{'milliseconds, least of ' + str(args.rounds):44s} {'ours':>8s} {'flax':>8s} {'torch':>8s}")

    def show(title: str, calls: dict) -> dict[str, float]:
        times = common.fastest(calls, args.rounds)
        cells = (f"{times[n] * 1e3:8.1f}" if n in times else f"{'-':>8s}" for n in ("ours", "flax", "torch"))
        print(f"{title:44s} {' '.join(cells)}", flush=True)
        return times

    if not args.quick:
        for batch, shape, c, k in LAYERS:
            show(
                f"conv {batch} x {'x'.join(map(str, shape))}, {c} -> {k}",
                convolution_calls(batch, shape, c, k),
            )
    headline = {}
    for title, (name, fields, batch, shape) in NETWORKS.items():
        if not args.quick or title == HEADLINE:
            times = show(
                f"step {title}, {batch} x {'x'.join(map(str, shape))}", step_calls(name, fields, batch, shape)
            )
            headline = times if title == HEADLINE else headline
    peer = "torch" if torch else "flax"
    print(common.load())
    common.report(f"conv3d: {HEADLINE} training step vs {peer}", headline["ours"], headline[peer], "seconds")


if __name__ == "__main__":
    main()
