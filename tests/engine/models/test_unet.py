"""The residual U-Net against a twin made of PyTorch's layers, in 2D and 3D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine import models
from equipoise.engine.errors import UserError

KEY = jax.random.key(0)
FEATURES = (4, 6, 8)


def _twin(params, stats, image, features, blocks):
    """nnU-Net's residual encoder and plain decoder, step by step, on channels-first tensors with our parameters."""
    import torch

    f, rank = torch.nn.functional, image.ndim - 2
    conv, up = (getattr(f, f"{name}{rank}d") for name in ("conv", "conv_transpose"))
    pool = getattr(f, f"avg_pool{rank}d")
    tensor = lambda x: torch.from_numpy(np.array(x))  # noqa: E731

    def layer(x, name, stride=1):
        weight = torch.movedim(tensor(params[name]["kernel"]), (-1, -2), (0, 1)).contiguous()
        if weight.shape[-1] == 3:  # SAME: with a stride, nothing before the first position
            x = f.pad(x, ((1, 1) if stride == 1 else (0, 1)) * rank)
        x, own = conv(x, weight, stride=stride), params[f"{name}_norm"]
        scale, bias = tensor(own["scale"]), tensor(own["bias"])
        if f"{name}_norm" in stats:
            own = stats[f"{name}_norm"]
            return f.batch_norm(x, tensor(own["mean"]), tensor(own["var"]), scale, bias)
        return f.instance_norm(x, weight=scale, bias=bias)

    x, maps = f.leaky_relu(layer(torch.movedim(tensor(image), -1, 1), "stem")), []
    for stage in range(1, len(features) + 1):
        for block in range(1, blocks + 1):
            name, stride = f"block{stage}_{block}", 2 if stage > 1 and block == 1 else 1
            rest = pool(x, 2) if stride == 2 else x
            rest = layer(rest, f"{name}_skip") if f"{name}_skip" in params else rest
            y = layer(f.leaky_relu(layer(x, f"{name}_conv1", stride)), f"{name}_conv2")
            x = f.leaky_relu(y + rest)
        maps.append(x)
    for stage, skip in enumerate(maps[-2::-1], start=1):
        own = params[f"up{stage}"]
        weight = torch.movedim(tensor(own["kernel"]), (-2, -1), (0, 1)).contiguous()
        x = torch.cat([up(x, weight, tensor(own["bias"]), stride=2), skip], 1)
        for part in (1, 2):
            x = f.leaky_relu(layer(x, f"decoder{stage}_conv{part}"))
    return (
        torch.movedim(x, 1, -1) @ tensor(params["head"]["kernel"]) + tensor(params["head"]["bias"])
    ).numpy()


@pytest.mark.parametrize(
    ("sizes", "norm"), [((12, 8), "instance"), ((8, 4), "batch"), ((4, 8, 4), "instance")], ids=str
)
def test_network_is_its_pytorch_twin(rng, sizes, norm):
    pytest.importorskip("torch")
    model = models.build("unet", num_outputs=3, features=FEATURES, blocks=2, norm=norm)
    image = rng.normal(size=(2, *sizes, 1)).astype(np.float32)
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.asarray(image)))

    def draw(path, leaf):
        values = 0.3 * rng.normal(size=leaf.shape)
        return jnp.asarray(np.abs(values) + 0.5 if "var" in str(path) else values, jnp.float32)

    variables = jax.tree.map_with_path(draw, shapes)
    got, features = jax.jit(model.apply)(variables, image)
    assert got.shape == (2, *sizes, 3)
    assert features["block3"].shape == (2, *(n // 4 for n in sizes), 8)
    expected = _twin(variables["params"], variables.get("batch_stats", {}), image, FEATURES, 2)
    difference = np.abs(got - expected).max()
    print(f"maximum difference {difference:.1e} of {np.abs(expected).max():.2f}")
    assert difference < 2e-5 * max(1, np.abs(expected).max())


def test_size_is_that_of_its_parts():
    """The parameters of five stages of two blocks in 3D, counted by hand."""
    widths = (32, 64, 128, 256, 320)
    model = models.build("unet", num_outputs=2, features=widths)
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 32, 32, 32, 1))))
    conv = lambda a, b, n=27: n * a * b + 2 * b  # noqa: E731
    total, before = conv(1, 32), 32
    for width in widths:
        total += (
            conv(before, width) + 3 * conv(width, width) + (conv(before, width, 1) if before != width else 0)
        )
        before = width
    for width in widths[-2::-1]:
        total += 8 * before * width + width + conv(2 * width, width) + conv(width, width)
        before = width
    assert models.num_parameters(shapes["params"]) == total + 32 * 2 + 2


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((1, 10, 12, 1), {}, "cannot be halved 2 times: crop or pad it, e.g. to 12x12"),
        ((1, 8, 8, 1), {"norm": "instence"}, "Did you mean 'instance'"),
    ],
)
def test_what_does_not_fit_is_said(shape, fields, message):
    model = models.build("unet", num_outputs=2, features=FEATURES, **fields)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: model.init(KEY, jnp.zeros(shape)))
