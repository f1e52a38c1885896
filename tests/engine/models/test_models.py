"""Networks: names, shapes, sizes that papers state, and numbers equal to a twin made of flax's own layers."""

import itertools
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine import models
from equipoise.engine.errors import UserError
from equipoise.engine.models import cnn, sfcn, transunet

KEY = jax.random.key(0)
SIMBA = {
    "features": (32, 64, 128, 256, 512),
    "activation": "sigmoid",
    "head": "flatten",
    "padding": "SAME",
    "dropout": 0.2,
    "kernel_init": "glorot",
}


def _abstract(model, shape):
    return jax.eval_shape(lambda: model.init(KEY, jnp.zeros(shape, jnp.float32)))


def test_simba_network_has_the_published_size():
    model = models.build("cnn", num_outputs=2, **SIMBA)
    shape = (1, 173, 211, 155, 1)
    variables = _abstract(model, shape)
    params, stats = (models.num_parameters(variables[k]) for k in ("params", "batch_stats"))
    biases_before_norm = sum(SIMBA["features"])
    assert params == 4_739_874
    assert params + stats + biases_before_norm == 4_742_850
    _, features = jax.eval_shape(lambda v: model.apply(v, jnp.zeros(shape)), variables)
    assert [features[f"block{i}"].shape[1:] for i in range(1, 6)] == [
        (87, 106, 78, 32), (44, 53, 39, 64), (22, 27, 20, 128), (11, 14, 10, 256), (6, 7, 5, 512),
    ]  # fmt: skip
    assert features["pooled"].shape == (1, 18_432)


def test_sfcn_leaves_the_published_positions():
    model = models.build("sfcn", num_outputs=40)
    shape = (1, 160, 192, 160, 1)
    variables = _abstract(model, shape)
    output, features = jax.eval_shape(lambda v: model.apply(v, jnp.zeros(shape)), variables)
    assert features["block5"].shape == (1, 5, 6, 5, 256)
    assert features["block6"].shape == (1, 5, 6, 5, 64)
    assert output.shape == (1, 40)
    widths = (1, 32, 64, 128, 256, 256)
    kernels = sum(27 * a * b for a, b in itertools.pairwise(widths)) + 256 * 64
    norms = 2 * (sum(widths[1:]) + 64)
    assert models.num_parameters(variables["params"]) == kernels + norms + 64 * 40 + 40


class FlaxTwin(nn.Module):
    """Both networks again, made of flax's layers, in the order of the papers."""

    features: tuple
    activation: str
    is_sfcn: bool

    @nn.compact
    def __call__(self, x, train):
        activation = getattr(nn, self.activation)
        for i, width in enumerate(self.features, start=1):
            last = self.is_sfcn and i == len(self.features)
            x = nn.Conv(width, (1 if last else 3,) * (x.ndim - 2), use_bias=False, name=f"conv{i}")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x)
            windows = (2,) * (x.ndim - 2)
            if last:
                x = activation(x)
            elif self.is_sfcn:
                x = activation(nn.max_pool(x, windows, windows))
            else:
                x = nn.max_pool(activation(x), windows, windows)
        return nn.Dense(3, name="head")(x.mean(tuple(range(1, x.ndim - 1))))


@pytest.mark.parametrize("shape", [(4, 5, 4, 6, 1), (4, 8, 5, 3)])
@pytest.mark.parametrize(
    ("name", "features", "activation"),
    [("cnn", (3, 4), "sigmoid"), ("cnn", (3, 4), "gelu"), ("sfcn", (3, 4, 5), "relu")],
)
def test_networks_and_gradients_equal_a_twin_of_flax_layers(rng, shape, name, features, activation):
    args = {"features": features, "dropout": 0.0} | ({"activation": activation} if name == "cnn" else {})
    with jax.enable_x64(True):
        model = models.build(name, num_outputs=3, dtype="float64", **args)
        twin = FlaxTwin(features, activation, name == "sfcn")
        x = jnp.asarray(rng.normal(size=shape))
        variables = jax.tree.map(lambda v: v.astype(jnp.float64), jax.jit(model.init)(jax.random.key(1), x))
        stats, probe = variables["batch_stats"], jnp.asarray(rng.normal(size=(4, 3)))

        def ours(params):
            (y, _), updated = model.apply(
                {"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"]
            )
            return (y * probe).sum(), (y, updated)

        def theirs(params):
            y, updated = twin.apply(
                {"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"]
            )
            return (y * probe).sum(), (y, updated)

        a, b = (jax.jit(jax.grad(f, has_aux=True))(variables["params"]) for f in (ours, theirs))
        assert a[1][0].dtype == jnp.float64
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), a, b)


PROTOCOL = [  # name, fields, shape of the images, spatial shape of the output
    *(("cnn", {}, shape, ()) for shape in ((2, 32, 32, 33, 1), (2, 32, 36, 3))),
    *(("sfcn", {}, shape, ()) for shape in ((2, 32, 32, 33, 1), (2, 32, 36, 3))),
    ("sam", {"depth": 3}, (2, 48, 64, 1), (12, 16)),
    ("sam", {"depth": 3, "lora_rank": 2, "remat": True}, (2, 48, 64, 3), (12, 16)),
    ("transunet", {"depth": 1}, (2, 48, 64, 1), (48, 64)),
    ("transunet", transunet.HYBRID | {"depth": 1, "lora_rank": 2, "remat": True}, (2, 32, 48, 3), (32, 48)),
    ("unet", {}, (2, 16, 32, 16, 1), (16, 32, 16)),
    ("unet", {"norm": "batch", "dropout": 0.1}, (2, 32, 48, 3), (32, 48)),
]


def test_the_protocol_is_asked_of_every_network():
    assert {name for name, *_ in PROTOCOL} == set(models.shipped())


@pytest.mark.parametrize(("name", "fields", "shape", "spatial"), PROTOCOL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_network_keeps_the_protocol(name, fields, shape, spatial, dtype):
    model = models.build(name, num_outputs=3, dtype=dtype, **fields)
    variables = _abstract(model, shape)
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    keys = jax.random.split(KEY, 2)
    (output, features), updated = jax.eval_shape(
        lambda v: model.apply(v, jnp.zeros(shape), train=True, keys=keys, mutable=["batch_stats"]), variables
    )
    assert (output.shape, output.dtype) == ((2, *spatial, 3), jnp.float32)
    assert {f.dtype for f in features.values()} == {jnp.dtype(dtype)}
    assert jax.tree.map(lambda v: (v.shape, v.dtype), dict(updated)) == jax.tree.map(
        lambda v: (v.shape, v.dtype), {k: v for k, v in variables.items() if k == "batch_stats"}
    )


def test_bfloat16_is_close_to_float32(rng):
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 1)), jnp.float32)
    narrow, wide = (
        models.build("cnn", num_outputs=2, dtype=d, features=(4, 8)) for d in ("bfloat16", "float32")
    )
    variables = jax.jit(wide.init)(KEY, x)
    a, b = (jax.jit(lambda v, m=m: m.apply(v, x)[0])(variables) for m in (narrow, wide))
    np.testing.assert_allclose(a, b, atol=0.05)


def test_activation_comes_before_pooling_only_where_it_may_fall():
    for name, function in cnn.ACTIVATIONS.items():
        falls = bool((jnp.diff(function(jnp.linspace(-6, 6, 2001))) < -1e-6).any())
        assert falls == (name not in cnn._NON_DECREASING), name


def test_dropout_reaches_the_head_and_needs_keys():
    model = models.build("cnn", num_outputs=2, features=(4,), dropout=0.5)
    x = jnp.ones((2, 4, 4, 4, 1)) * jnp.arange(4.0)[:, None]
    variables = jax.jit(model.init)(KEY, x)
    keys = jax.random.split(jax.random.key(5), 2)
    run = lambda keys: model.apply(variables, x, train=True, keys=keys, mutable=["batch_stats"])[0][0]  # noqa: E731
    np.testing.assert_array_equal(run(keys), run(keys))
    assert not np.array_equal(run(keys), run(jax.random.split(jax.random.key(6), 2)))
    with pytest.raises(ValueError, match="needs keys"):
        run(None)


def test_names_that_do_not_exist():
    with pytest.raises(UserError, match=r"no model 'cn'\. Did you mean 'cnn'\? There are: cnn, sam, sfcn"):
        models.build("cn", num_outputs=2)
    with pytest.raises(
        UserError, match=r"no argument 'feature'\. Did you mean 'features'\? It has: features, act"
    ):
        models.build("cnn", num_outputs=2, feature=(1,))
    with pytest.raises(UserError, match="no argument 'parent'"):
        models.build("cnn", num_outputs=2, parent=None)
    with pytest.raises(UserError, match="no module 'nowhere'"):
        models.build("nowhere:Net", num_outputs=2)
    with pytest.raises(UserError, match=r"no flax module 'Modle'\. Did you mean 'Model'"):
        models.build("equipoise.engine.models.cnn:Modle", num_outputs=2)
    with pytest.raises(UserError, match=r"no activation 'rlu'\. Did you mean 'relu'"):
        models.build("cnn", num_outputs=2, activation="rlu").init(KEY, jnp.zeros((1, 32, 32, 1)))
    with pytest.raises(UserError, match="no head"):
        _abstract(models.build("cnn", num_outputs=2, head="mean"), (1, 32, 32, 1))
    with pytest.raises(UserError, match="cannot be pooled"):
        _abstract(models.build("cnn", num_outputs=2), (1, 8, 8, 1))


def test_a_network_of_the_users_own(monkeypatch):
    class Linear(nn.Module):
        num_outputs: int
        dtype: str
        axis_name: str | None
        gain: float = 1.0

    class Short(nn.Module):
        num_outputs: int

    module = types.ModuleType("my_networks")
    module.Linear, module.Short = Linear, Short
    monkeypatch.setitem(sys.modules, "my_networks", module)
    made = models.build("my_networks:Linear", num_outputs=4, axis_name="batch", gain=2.0)
    assert (made.num_outputs, made.axis_name, made.gain) == (4, "batch", 2.0)
    with pytest.raises(UserError, match="lacks the field"):
        models.build("my_networks:Short", num_outputs=4)


def test_lists_from_a_configuration_file_become_tuples():
    assert models.build("cnn", num_outputs=2, features=[4, 8]).features == (4, 8)
    assert isinstance(models.build("sfcn", num_outputs=2), sfcn.Model)
