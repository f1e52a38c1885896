"""Whole training steps of segmentation models on the CPU (forward, backward, AdamW), float32: this project against PyTorch.

    python benchmarks/segmentation_step.py [--rounds=3] [--only=SAMed] [--size=512] [--batch=4]

Ours is the step that `equipoise train` runs. SAMed's peer is the released segment-anything with low-rank adapters on
queries and values of its encoder; TransUNet's are the same layers in PyTorch. Both train the same parameters on the mean
cross-entropy of all pixels, SAMed's at a quarter of the image's size, start from the same stored bytes, and use every
core. The closing line is of the model where we do worst; ratio is our time over PyTorch's.
"""

import argparse
import os
import pathlib
import sys
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # as a program: the project is above

from benchmarks import common
from equipoise.engine import mesh, models
from equipoise.engine.config import Data, Model, Optimizer, Run, Task
from equipoise.engine.models import lora
from equipoise.engine.training.step import init_state, make_train_step
from equipoise.engine.update import optim

CLASSES, RANK, RATE, DECAY = 3, 4, 1e-3, 1e-2
SAMED = {"lora_rank": RANK}
SMALL = {"width": 96, "depth": 3, "heads": 3, "global_blocks": (1,)}


class Pixels:
    """The task: mean cross-entropy over pixels."""

    num_outputs, needs_batch_sums = CLASSES, False

    def batch_sums(self, output: jax.Array, batch: dict) -> tuple[()]:
        """Nothing: every example has a loss of its own."""
        return ()

    def loss(self, output: jax.Array, batch: dict, whole: object = None) -> jax.Array:
        """Of every example."""
        picked = jnp.take_along_axis(jax.nn.log_softmax(output), batch["mask"][..., None].astype(int), -1)
        return -picked.mean((1, 2, 3))


def stored(batch: int, size: int, reduced: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images as a cohort stores them, and masks."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (batch, size, size, 1), np.uint8), draw.integers(
        0, CLASSES, (batch, reduced, reduced), np.uint8
    )


def our_step(name: str, fields: dict, batch: int, size: int, reduced: int) -> Callable[[], object]:
    """One update under the runner; every call goes on from the state of the last."""
    config = Run(
        data=Data(cohort="random", batch_size=batch, preprocess=""),
        task=Task(label="mask"),
        model=Model(name=name, args=fields),
        optimizer=Optimizer(
            name="adamw", learning_rate=RATE, weight_decay=DECAY, freeze=lora.FREEZE if name == "sam" else ""
        ),
    )
    runner = mesh.make_runner(config)
    model = models.build(name, num_outputs=CLASSES, **fields)
    optimizer = optim.make(config.optimizer)
    step = runner.train(make_train_step(config, model, Pixels(), optimizer))
    images, masks = stored(batch, size, reduced)
    placed = runner.shard(
        {
            "image": images,
            "scale": np.tile(np.float32([1 / 255, 0]), (batch, 1)),
            "mask": masks,
            "weight": np.ones(batch, np.float32),
            "position": np.arange(batch, dtype=np.int32),
        }
    )
    state = runner.replicate(init_state(config, model, optimizer, images.shape[1:]))

    def call() -> object:
        nonlocal state
        state, metrics = step(state, placed)
        return metrics

    return call


def torch_samed(fields: dict, size: int) -> "torch.nn.Module":
    """The released modules with adapters; what their package imports of torchvision is not used."""
    import torch

    stubs = {
        "torchvision": (),
        "torchvision.ops": (),
        "torchvision.ops.boxes": ("batched_nms", "box_area"),
        "torchvision.transforms": (),
        "torchvision.transforms.functional": ("resize", "to_pil_image"),
    }
    for name, members in stubs.items():
        module = types.ModuleType(name)
        vars(module).update(dict.fromkeys(members))
        sys.modules.setdefault(name, module)
    common.require("segment_anything")
    from segment_anything import modeling

    class Adapted(torch.nn.Module):
        def __init__(self, qkv: torch.nn.Linear):
            super().__init__()
            self.qkv, width = qkv, qkv.in_features
            self.a = torch.nn.ModuleList(torch.nn.Linear(width, RANK, bias=False) for _ in range(2))
            self.b = torch.nn.ModuleList(torch.nn.Linear(RANK, width, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, width = self.qkv(x), self.qkv.in_features
            y[..., :width] += self.b[0](self.a[0](x))
            y[..., -width:] += self.b[1](self.a[1](x))
            return y

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            own = {"width": 768, "depth": 12, "heads": 12, "global_blocks": (2, 5, 8, 11)} | fields
            self.encoder = modeling.ImageEncoderViT(
                img_size=size, embed_dim=own["width"], depth=own["depth"], num_heads=own["heads"],
                use_rel_pos=True, window_size=14, global_attn_indexes=own["global_blocks"],
            ).requires_grad_(False)  # fmt: skip
            for block in self.encoder.blocks:
                block.attn.qkv = Adapted(block.attn.qkv)
            grid = (size // 16, size // 16)
            self.prompts = modeling.PromptEncoder(256, grid, (size, size), 16)
            two_way = modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
            self.decoder = modeling.MaskDecoder(
                num_multimask_outputs=CLASSES - 1, transformer=two_way, transformer_dim=256
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            embedding = self.encoder(x.expand(-1, 3, -1, -1))
            return self.decoder.predict_masks(
                embedding, self.prompts.get_dense_pe(), *self.prompts(None, None, None)
            )[0]

    return Net()


def torch_transunet(fields: dict, size: int) -> "torch.nn.Module":
    """Patches, transformer and decoder of our layers, in PyTorch's own."""
    import torch
    from torch import nn

    own = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072} | fields

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            width = own["width"]
            self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(
                nn.Linear(width, own["hidden"]), nn.GELU(), nn.Dropout(0.1),
                nn.Linear(own["hidden"], width), nn.Dropout(0.1),
            )  # fmt: skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, n, c = x.shape
            split = self.qkv(self.norm1(x)).reshape(b, n, 3, own["heads"], -1).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(*split)
            x = x + self.out(y.transpose(1, 2).reshape(b, n, c))
            return x + self.mlp(self.norm2(x))

    def conv(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            width, grid = own["width"], size // 16
            self.patch = nn.Conv2d(3, width, 16, 16)
            self.position = nn.Parameter(torch.zeros(1, grid * grid, width))
            self.encoder = nn.Sequential(
                nn.Dropout(0.1), *(Block() for _ in range(own["depth"])), nn.LayerNorm(width, 1e-6)
            )
            layers, before = conv(width, 512), 512
            for wide in (256, 128, 64, 16):
                layers += [nn.UpsamplingBilinear2d(scale_factor=2), *conv(before, wide), *conv(wide, wide)]
                before = wide
            self.decoder = nn.Sequential(*layers, nn.Conv2d(before, CLASSES, 3, padding=1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x.expand(-1, 3, -1, -1))
            tokens = self.encoder(x.flatten(2).transpose(1, 2) + self.position)
            return self.decoder(tokens.transpose(1, 2).reshape(x.shape))

    return Net()


def torch_step(net: "torch.nn.Module", batch: int, size: int, reduced: int) -> Callable[[], object]:
    """One update of PyTorch."""
    import torch

    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=DECAY, fused=True)
    images, masks = stored(batch, size, reduced)
    images, masks = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks).long()

    def call() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images.float() * (1 / 255)), masks).backward()
        optimizer.step()

    return call


# title: (our model, its fields, how PyTorch makes it, side of the image, and of the output as a share of it)
NETWORKS = {
    "SAMed-B": ("sam", SAMED, torch_samed, 512, 4),
    "TransUNet": ("transunet", {}, torch_transunet, 224, 1),
    "small SAMed": ("sam", SAMED | SMALL, torch_samed, 256, 4),
    "small TransUNet": (
        "transunet",
        {"width": 96, "depth": 2, "heads": 3, "hidden": 384},
        torch_transunet,
        64,
        1,
    ),
}


def main() -> None:
    """Prints a table and the closing line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each side, taken in turns")
    parser.add_argument("--only", default="", help="one network; by default the two of full size")
    parser.add_argument("--size", type=int, default=0, help="side of the image in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images")
    args = parser.parse_args()
    torch = common.require("torch")
    common.restart_on_cpu()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    print(f"{common.machine()}, torch {torch.__version__}; {common.load()}")
    chosen = [args.only] if args.only else [title for title in NETWORKS if "small" not in title]
    if unknown := set(chosen) - set(NETWORKS):
        sys.exit(f"no network {', '.join(unknown)}; there are: {', '.join(NETWORKS)}")
    print(f"{f'seconds per step, least of {args.rounds}':40s}{'ours':>12s}{'torch':>12s}  ratio")
    found = {}
    for title in chosen:
        name, fields, make, size, reduce = NETWORKS[title]
        size = args.size or size
        peer = {key: value for key, value in fields.items() if key != "lora_rank"}
        calls = {
            "ours": our_step(name, fields, args.batch, size, size // reduce),
            "torch": torch_step(make(peer, size), args.batch, size, size // reduce),
        }
        times = found[title] = common.fastest(calls, args.rounds)
        row = f"{title}, {args.batch} x {size} x {size}"
        ratio = times["ours"] / times["torch"]
        print(f"{row:40s}{times['ours']:12.3f}{times['torch']:12.3f}  {ratio:5.2f}", flush=True)
    print(common.load())
    worst = max(found, key=lambda title: found[title]["ours"] / found[title]["torch"])
    common.report(
        f"segmentation_step: {worst} vs torch", found[worst]["ours"], found[worst]["torch"], "seconds"
    )


if __name__ == "__main__":
    main()
