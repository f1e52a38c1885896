"""TransUNet against twins made of PyTorch's layers, by way of the files that its encoder's weights come in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine import models
from equipoise.engine.errors import UserError
from equipoise.engine.models import published, resampling, transunet

KEY = jax.random.key(0)
TINY = {"width": 16, "depth": 2, "heads": 2, "hidden": 24, "head": 12, "decoder": (8, 8, 4, 4)}
HYBRID = TINY | transunet.HYBRID | {"stages": (1, 2, 1), "stem": 4}


def _drawn(model, image, rng):
    """Random variables in the model's shapes; none is constant."""
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.asarray(image)))

    def draw(path, leaf):
        values, kind = 0.3 * rng.normal(size=leaf.shape), path[-1].key
        values = np.abs(values) + 0.5 if kind in ("var", "scale", "bias") else values  # units that are alive
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def _count(**fields):
    model = models.build("transunet", num_outputs=3, **fields)
    return models.num_parameters(
        jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 224, 224, 3))))["params"]
    )


def test_sizes():
    vit = 12 * (4 * 768 * 768 + 2 * 768 * 3072 + 9 * 768 + 3072) + 2 * 768 + 196 * 768
    convs = [
        (768, 512),
        (512, 256),
        (256, 256),
        (256, 128),
        (128, 128),
        (128, 64),
        (64, 64),
        (64, 16),
        (16, 16),
    ]
    decoder = sum(9 * a * b + 2 * b for a, b in convs) + 9 * 16 * 3 + 3
    assert _count() == vit + (16 * 16 * 3 + 1) * 768 + decoder
    # 512, 256 and 64 channels of the ResNet's maps join the first three blocks
    resnet, inputs = 7 * 7 * 3 * 64 + 2 * 64, 64
    for width, units in ((64, 3), (128, 4), (256, 9)):
        resnet += inputs * 4 * width + 8 * width  # the projection of the first unit
        for _ in range(units):
            resnet += inputs * width + 9 * width**2 + 4 * width**2 + 12 * width
            inputs = 4 * width
    joined = 9 * (512 * 256 + 256 * 128 + 64 * 64)
    assert _count(**transunet.HYBRID) == vit + (1024 + 1) * 768 + decoder + joined + resnet


class Torch:
    """The functions of PyTorch that a twin needs, on channels-first tensors with our parameters."""

    def __init__(self, params, stats):
        import torch

        self.t, self.f = torch, torch.nn.functional
        self.params, self.stats = params, stats

    def get(self, path, tree=None):
        tree = self.params if tree is None else tree
        for part in path.split("/"):
            tree = tree[part]
        return self.t.from_numpy(np.array(tree))

    def conv(self, x, path, stride=1, same=True, standard=False):
        weight = self.get(f"{path}/kernel").permute(3, 2, 0, 1)
        if standard:
            var, mean = self.t.var_mean(weight, (1, 2, 3), keepdim=True, unbiased=False)
            weight = (weight - mean) / self.t.sqrt(var + 1e-5)
        if same:
            total = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
            low, high = total // 2, total - total // 2
            x = self.f.pad(x, (low, high, low, high))
        return self.f.conv2d(x, weight, stride=stride)

    def norm(self, x, path):
        scale, bias = (self.get(f"{path}/{n}") for n in ("scale", "bias"))
        mean, var = (self.get(f"{path}/{n}", self.stats) for n in ("mean", "var"))
        return self.f.batch_norm(x, mean, var, scale, bias, eps=1e-5)

    def group(self, x, path):
        groups = min(32, x.shape[1])
        return self.f.group_norm(x, groups, self.get(f"{path}/scale"), self.get(f"{path}/bias"), 1e-6)

    def dense(self, x, path):
        return x @ self.get(f"{path}/kernel") + self.get(f"{path}/bias")

    def layer(self, x, path):
        return self.f.layer_norm(x, x.shape[-1:], self.get(f"{path}/scale"), self.get(f"{path}/bias"), 1e-6)

    def resnet(self, x, stages):
        at = "encoder/resnet"
        x = self.f.relu(self.group(self.conv(x, f"{at}/conv_root", 2, standard=True), f"{at}/gn_root"))
        maps = [x]
        x = self.f.max_pool2d(self.f.pad(x, (0, 1, 0, 1), value=-self.t.inf), 3, 2)
        for stage, units in enumerate(stages, start=1):
            for unit in range(1, units + 1):
                path, stride = f"{at}/block{stage}_unit{unit}", 2 if stage > 1 and unit == 1 else 1
                rest = x
                if unit == 1:
                    rest = self.group(
                        self.conv(x, f"{path}/conv_proj", stride, standard=True), f"{path}/gn_proj"
                    )
                for n, s in ((1, 1), (2, stride), (3, 1)):
                    x = self.group(self.conv(x, f"{path}/conv{n}", s, standard=True), f"{path}/gn{n}")
                    x = self.f.relu(x + rest if n == 3 else x)
            maps.append(x)
        return maps

    def transunet(self, image, fields):
        t, f = self.t, self.f
        x = t.from_numpy(image).permute(0, 3, 1, 2)
        maps = self.resnet(x, fields["stages"]) if fields.get("stages") else [x]
        patch = fields.get("patch", 16)
        x = f.conv2d(maps.pop(), self.get("encoder/patch/kernel").permute(3, 2, 0, 1),
                     self.get("encoder/patch/bias"), stride=patch)  # fmt: skip
        b, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1) + self.get("encoder/position")
        x = x.reshape(b, h * w, c)
        for n in range(1, fields["depth"] + 1):
            at = f"encoder/block{n}"
            y = self.dense(self.layer(x, f"{at}/norm1"), f"{at}/qkv")
            q, k, v = (p.reshape(b, h * w, fields["heads"], -1).transpose(1, 2) for p in y.chunk(3, -1))
            y = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
            x = x + self.dense(y, f"{at}/out")
            y = f.gelu(self.dense(self.layer(x, f"{at}/norm2"), f"{at}/dense1"))
            x = x + self.dense(y, f"{at}/dense2")
        x = self.layer(x, "encoder/norm").reshape(b, h, w, c).permute(0, 3, 1, 2)
        x = f.relu(self.norm(self.conv(x, "decoder_head"), "decoder_head_norm"))
        for n in range(1, 5):
            x = t.nn.UpsamplingBilinear2d(scale_factor=2)(x)
            if n <= fields.get("skips", 0):
                x = t.cat([x, maps[-n]], 1)
            for part in (1, 2):
                at = f"decoder{n}_conv{part}"
                x = f.relu(self.norm(self.conv(x, at), f"{at}_norm"))
        x = self.conv(x, "head") + self.get("head/bias")[:, None, None]
        return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("fields", [TINY, HYBRID], ids=["patches", "hybrid"])
def test_network_is_its_pytorch_twin(rng, fields):
    pytest.importorskip("torch")
    model = models.build("transunet", num_outputs=3, **fields)
    image = rng.normal(size=(2, 32, 48, 3)).astype(np.float32)
    variables = _drawn(model, image, rng)
    got, features = jax.jit(model.apply)(variables, image)
    assert got.shape == (2, 32, 48, 3)
    assert features["block2"].shape == (2, 2, 3, 16)
    assert features["decoder4"].shape == (2, 32, 48, 4)
    expected = Torch(variables["params"], variables["batch_stats"]).transunet(image, fields)
    assert expected.std((1, 2)).min() > 0.05
    difference = np.abs(got - expected).max()
    print(f"maximum difference {difference:.1e} of {np.abs(expected).max():.2f}")
    assert difference < 2e-5 * np.abs(expected).max()


def _published(variables, heads):
    """The encoder's parameters under the names and in the shapes of the published files."""
    encoder, found = jax.tree.map(np.asarray, variables["params"]["encoder"]), {}
    for at, value in jax.tree.leaves_with_path(encoder):
        path = jax.tree_util.keystr(at, simple=True, separator="/")
        block, _, rest = path.partition("/")
        if block == "resnet":
            path = rest.replace("_unit", "/unit")
            found[path] = value[None, None, None] if "gn" in path else value
        elif block == "patch":
            found[f"embedding/{rest}"] = value
        elif block == "norm":
            found[f"Transformer/encoder_norm/{rest}"] = value
        elif block == "position":
            grid = value.reshape(1, -1, value.shape[-1])
            found["Transformer/posembed_input/pos_embedding"] = np.pad(grid, ((0, 0), (1, 0), (0, 0)))
        else:
            layer, kind = rest.split("/")
            at = f"Transformer/encoderblock_{int(block[5:]) - 1}"
            names = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2", "dense1": "MlpBlock_3/Dense_0",
                     "dense2": "MlpBlock_3/Dense_1"}  # fmt: skip
            attention = f"{at}/MultiHeadDotProductAttention_1"
            if layer == "qkv":
                for name, part in zip(("query", "key", "value"), np.split(value, 3, -1), strict=True):
                    found[f"{attention}/{name}/{kind}"] = part.reshape(*part.shape[:-1], heads, -1)
            elif layer == "out":
                shape = (heads, -1, value.shape[-1]) if kind == "kernel" else (-1,)
                found[f"{attention}/out/{kind}"] = value.reshape(shape)
            else:
                found[f"{at}/{names[layer]}/{kind}"] = value
    return found | {"cls": np.zeros((1, 1, 16)), "head/kernel": np.zeros((16, 5)), "head/bias": np.zeros(5)}


@pytest.mark.parametrize("fields", [TINY, HYBRID], ids=["patches", "hybrid"])
def test_published_files_fill_the_encoder(rng, tmp_path, fields):
    model = models.build("transunet", num_outputs=3, **fields)
    image = np.zeros((1, 32, 32, 3), np.float32)
    trained, fresh = _drawn(model, image, rng), _drawn(model, image, rng)
    np.savez(tmp_path / "vit.npz", **_published(trained, 2))
    loaded = published.load(tmp_path / "vit.npz", fresh)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"]["encoder"], trained["params"]["encoder"])
    for name in ("head", "decoder1_conv1"):
        jax.tree.map(np.testing.assert_array_equal, loaded["params"][name], fresh["params"][name])
    larger = _drawn(model, np.zeros((1, 64, 64, 3), np.float32), rng)
    position = published.load(tmp_path / "vit.npz", larger)["params"]["encoder"]["position"]
    assert position.shape == (4, 4, 16)
    corners = trained["params"]["encoder"]["position"]
    np.testing.assert_allclose(position[::3, ::3], corners, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "new"), [((4, 6), (8, 12)), ((5, 3), (2, 7)), ((64, 64), (32, 32)), ((1, 4), (2, 2))]
)
@pytest.mark.parametrize("align_corners", [True, False])
def test_resize_is_pytorchs(rng, size, new, align_corners):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), new, mode="bilinear", align_corners=align_corners
    )
    got = resampling.resize(jnp.asarray(x), new, align_corners)
    np.testing.assert_allclose(got, expected.permute(0, 2, 3, 1), atol=5e-5)


def test_dropout_belongs_to_the_example_and_remat_changes_nothing(rng):
    model = models.build("transunet", num_outputs=2, **TINY | {"dropout": 0.5})
    image = jnp.asarray(rng.normal(size=(2, 32, 32, 3)), jnp.float32)
    variables, keys = _drawn(model, image, rng), jax.random.split(KEY, 2)

    @jax.jit
    def run(image, keys):
        features = (
            model.clone(remat=r).apply(variables, image, train=True, keys=keys, mutable=["batch_stats"])[0][1]
            for r in (False, True)
        )
        return [f["encoded"] for f in features]

    plain, saving = run(image, keys)
    np.testing.assert_allclose(plain, saving, atol=1e-5)
    turned, _ = run(image[::-1], keys[::-1])
    np.testing.assert_allclose(turned[::-1], plain, atol=1e-5)
    assert abs(run(image, keys[::-1])[0] - plain).max() > 0.1


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((1, 40, 32, 3), {}, "e.g. to 48x32"),
        ((1, 32, 32, 2), {}, "1 or 3 channels"),
        ((1, 32, 32, 1), {"skips": 1}, "skips=1"),
    ],
)
def test_what_does_not_fit_is_said(shape, fields, message):
    model = models.build("transunet", num_outputs=2, **TINY, **fields)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: model.init(KEY, jnp.zeros(shape)))
