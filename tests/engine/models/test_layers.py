"""Layers against flax's own, written independently, and against loops a person can follow."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.models import layers

CONVOLUTIONS = [  # shape, kernel size, stride, output channels
    ((2, 5, 4, 6, 1), 3, 1, 4),
    ((2, 6, 5, 4, 3), 3, 2, 2),
    ((1, 7, 4, 4, 2), 5, 1, 3),
    ((1, 8, 5, 5, 2), 4, 3, 3),
    ((2, 3, 3, 3, 2), 1, 1, 3),
    ((1, 4, 4, 4, 2), 1, 2, 3),
    ((2, 6, 5, 3), 3, 2, 4),
    ((2, 1, 4, 4, 2), 3, 1, 2),
]


def _flax_conv(kernel, stride, x):
    num_spatial = x.ndim - 2
    module = nn.Conv(
        kernel.shape[-1], kernel.shape[:-2], (stride,) * num_spatial, use_bias=False, param_dtype=kernel.dtype
    )
    return module.apply({"params": {"kernel": kernel}}, x)


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize(
    "precision", [("float32", 2e-5, 2 << 20), ("float64", 1e-10, 1)], ids=["one", "slabs"]
)
def test_convolution_and_gradients_equal_flax(rng, monkeypatch, case, precision):
    (shape, size, stride, width), (dtype, tolerance, slab_bytes) = case, precision
    monkeypatch.setattr(layers, "_SLAB_BYTES", slab_bytes)
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(rng.normal(size=shape), dtype)
        kernel = jnp.asarray(rng.normal(size=(size,) * (len(shape) - 2) + (shape[-1], width)), dtype)
        out_shape = (shape[0], *(-(-n // stride) for n in shape[1:-1]), width)
        probe = jnp.asarray(rng.normal(size=out_shape), dtype)

        @jax.jit
        def run(kernel, x, probe):
            ours, ours_back = jax.vjp(lambda k, x: layers.convolution(x, k, stride), kernel, x)
            theirs, theirs_back = jax.vjp(lambda k, x: _flax_conv(k, stride, x), kernel, x)
            return (ours, *ours_back(probe)), (theirs, *theirs_back(probe))

        for a, b in zip(*run(kernel, x, probe), strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(abs(b).max())))


def test_folded_form_is_what_a_cpu_runs_and_plain_what_a_gpu_runs():
    x, kernel = jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2))

    def lower(platform):
        traced = jax.jit(layers.convolution).trace(x, kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "0, 1, 2, f" not in lower("cpu")
    assert "0, 1, 2, f" in lower("cuda")


def test_more_than_one_slab_is_made():
    x, kernel = (
        jax.ShapeDtypeStruct((4, 32, 32, 32, 32), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 3, 32, 8), jnp.float32),
    )
    assert str(jax.make_jaxpr(layers.folded_convolution)(x, kernel)).count("conv_general_dilated[") == 8
    small = jax.ShapeDtypeStruct((1, 8, 8, 8, 32), jnp.float32)
    assert str(jax.make_jaxpr(layers.folded_convolution)(small, kernel)).count("conv_general_dilated[") == 1


def test_convolution_of_a_point_is_the_mirrored_kernel():
    x = jnp.zeros((1, 3, 3, 3, 1)).at[0, 1, 1, 1, 0].set(1)
    kernel = jnp.arange(27.0).reshape(3, 3, 3, 1, 1)
    np.testing.assert_array_equal(layers.convolution(x, kernel)[0, ..., 0].ravel(), np.arange(27.0)[::-1])


def test_convolution_under_vmap_over_models_equals_one_by_one(rng):
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 4, 2)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(3, 3, 3, 3, 2, 2)), jnp.float32)
    together = jax.vmap(layers.convolution, (None, 0))(x, kernels)
    for one, kernel in zip(together, kernels, strict=True):
        np.testing.assert_allclose(one, layers.convolution(x, kernel), atol=1e-5)


def test_conv_parameters():
    for shape in ((1, 4, 4, 4, 2), (1, 4, 4, 2)):
        params = layers.Conv(5, use_bias=True, dtype=jnp.bfloat16).init(jax.random.key(0), jnp.zeros(shape))[
            "params"
        ]
        assert params["kernel"].shape == (*(3,) * (len(shape) - 2), 2, 5)
        assert {p.dtype for p in params.values()} == {jnp.dtype("float32")}
    with pytest.raises(UserError, match=r"\(4, 4\)"):
        layers.Conv(5).init(jax.random.key(0), jnp.zeros((4, 4)))


def test_conv_bias_is_added(rng):
    x = jnp.asarray(rng.normal(size=(1, 4, 4, 4, 2)), jnp.float32)
    kernel, bias = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 2)), jnp.float32), jnp.asarray([1.0, -2.0])
    ours = layers.Conv(2, use_bias=True).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(ours, _flax_conv(kernel, 1, x) + bias, atol=1e-5)


POOLINGS = [
    ((2, 6, 4, 8, 3), 2),
    ((2, 5, 4, 7, 3), 2),
    ((2, 7, 5, 3), 2),
    ((1, 9, 6, 8, 1), 3),
]  # under SAME, at most one position is missing: flax pads it at the far end too


@pytest.mark.parametrize(("shape", "window"), POOLINGS)
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_pooling_equals_flax(rng, shape, window, padding):
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    windows = (window,) * (len(shape) - 2)
    pairs = [
        (layers.max_pool, nn.max_pool, {}),
        (layers.avg_pool, nn.avg_pool, {"count_include_pad": False}),
    ]
    for ours, theirs, extra in pairs:

        def run(x, f=ours, g=theirs, extra=extra):
            a, a_back = jax.vjp(lambda x: f(x, window, padding), x)
            b, b_back = jax.vjp(lambda x: g(x, windows, windows, padding, **extra), x)
            probe = jnp.cos(jnp.arange(b.size, dtype=b.dtype)).reshape(b.shape)
            return (a, *a_back(probe)), (b, *b_back(probe))

        for a, b in zip(*jax.jit(run)(x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_equal_maxima_share_the_gradient():
    x = jnp.asarray([[3.0, 3.0], [1.0, 2.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0.5, 0.5], [0, 0]])


def test_same_average_leaves_the_outside_out():
    x = jnp.asarray([1.0, 3.0, 8.0])[None, :, None, None] * jnp.ones((1, 3, 2, 1))
    np.testing.assert_array_equal(layers.avg_pool(x, padding="SAME")[0, :, 0, 0], [2, 8])


def test_pooling_says_what_does_not_fit():
    with pytest.raises(UserError, match="4x1 positions cannot be pooled by 2"):
        layers.max_pool(jnp.zeros((1, 4, 1, 2)))
    with pytest.raises(UserError, match="choose VALID"):
        layers.max_pool(jnp.zeros((1, 4, 4, 2)), padding="same")


def test_global_average_keeps_float32_accuracy_in_bfloat16():
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    pooled = layers.global_avg_pool(x)
    assert pooled.dtype == jnp.bfloat16
    assert pooled[0, 0] == 1


@pytest.mark.parametrize("shape", [(4, 3, 5, 2, 3), (4, 3, 5, 3)])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flax(rng, shape, train):
    x = jnp.asarray(rng.normal(2.0, 3.0, shape), jnp.float32)
    variables = {
        "params": {"scale": jnp.asarray(rng.normal(size=3), jnp.float32), "bias": jnp.asarray([1.0, 0, -1])},
        "batch_stats": {"mean": jnp.asarray([0.5, -1, 2]), "var": jnp.asarray([1.0, 2, 0.5])},
    }
    ours, theirs = layers.BatchNorm(momentum=0.8), nn.BatchNorm(use_running_average=not train, momentum=0.8)
    probe = jnp.asarray(rng.normal(size=shape), jnp.float32)

    def run(module, args, params, x):
        y, updated = module.apply({**variables, "params": params}, x, *args, mutable=["batch_stats"])
        return (y * probe).sum(), (y, updated.get("batch_stats", variables["batch_stats"]))

    a, b = (
        jax.jit(jax.grad(lambda p, x, m=m, e=e: run(m, e, p, x), (0, 1), has_aux=True))(
            variables["params"], x
        )
        for m, e in ((ours, (train,)), (theirs, ()))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), a, b)


def test_batch_norm_variance_survives_a_mean_far_from_zero(rng):
    x = rng.normal(1000.0, 0.1, (64, 8, 8, 1))
    norm = layers.BatchNorm(momentum=0.0)
    variables = norm.init(jax.random.key(0), jnp.asarray(x, jnp.float32), False)
    for _ in range(2):  # the second pass knows roughly where the mean is
        y, updated = norm.apply(variables, jnp.asarray(x, jnp.float32), True, mutable=["batch_stats"])
        variables |= updated
    np.testing.assert_allclose(updated["batch_stats"]["var"], x.var(), rtol=1e-2)
    np.testing.assert_allclose(np.std(y), (x.var() / (x.var() + 1e-5)) ** 0.5, rtol=1e-2)


def test_batch_norm_is_global_under_a_mapped_axis(rng):
    x = jnp.asarray(rng.normal(size=(8, 3, 3, 2)), jnp.float32)
    norm = layers.BatchNorm(axis_name="device")
    variables = norm.init(jax.random.key(0), x, True)
    run = lambda x: norm.apply(variables, x, True, mutable=["batch_stats"])  # noqa: E731
    split, stats = jax.vmap(run, axis_name="device")(x.reshape(4, 2, 3, 3, 2))
    whole, expected = layers.BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(split.reshape(x.shape), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[3], b, atol=1e-6), stats, expected)


def test_batch_norm_in_bfloat16_keeps_statistics_in_float32(rng):
    x = jnp.asarray(rng.normal(size=(8, 4, 4, 2)), jnp.bfloat16)
    norm = layers.BatchNorm(dtype=jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x, False)
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        updated["batch_stats"]["mean"], 0.1 * np.asarray(x, np.float64).mean((0, 1, 2)), atol=1e-6
    )


class TwoDropouts(nn.Module):
    @nn.compact
    def __call__(self, x, keys):
        return [layers.Dropout(0.25, name=name)(x, True, keys) for name in ("first", "second")]


def _keys(n):
    return jax.vmap(jax.random.key)(jnp.arange(n))


def test_dropout_belongs_to_the_example():
    x, keys = jnp.ones((6, 50)), _keys(6)
    first, second = TwoDropouts().apply({}, x, keys)
    order = jnp.asarray([3, 1, 5])
    np.testing.assert_array_equal(TwoDropouts().apply({}, x[order], keys[order])[0], first[order])
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_dropout_rate_and_scale():
    y = layers.Dropout(0.25).apply({}, jnp.ones((4, 5000)), True, _keys(4))
    np.testing.assert_array_equal(np.unique(y), np.asarray([0, 1 / 0.75], np.float32))
    assert abs((np.asarray(y) == 0).mean() - 0.25) < 0.015  # five standard errors


def test_dropout_draws_the_same_in_float64():
    narrow = layers.Dropout(0.5).apply({}, jnp.ones((2, 64)), True, _keys(2))
    with jax.enable_x64(True):
        wide = layers.Dropout(0.5).apply({}, jnp.ones((2, 64), jnp.float64), True, _keys(2))
        assert wide.dtype == jnp.float64
    np.testing.assert_array_equal(narrow, wide)


def test_dropout_off_and_misused():
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(layers.Dropout(0.5).apply({}, x, False, None), x)
    np.testing.assert_array_equal(layers.Dropout(0.0).apply({}, x, True, None), x)
    with pytest.raises(ValueError, match="needs keys"):
        layers.Dropout(0.5).apply({}, x, True, None)
    with pytest.raises(ValueError, match="outside"):
        layers.Dropout(1.0).apply({}, x, False, None)


def test_dense_equals_flax(rng):
    x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    variables = layers.Dense(2).init(jax.random.key(0), x)
    variables["params"]["bias"] += jnp.asarray([1.0, -1])
    np.testing.assert_allclose(
        layers.Dense(2).apply(variables, x), nn.Dense(2).apply(variables, x), rtol=1e-6
    )
