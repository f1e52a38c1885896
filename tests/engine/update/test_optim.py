import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise.engine import models
from equipoise.engine.config import Model, Optimizer, Run, replaced
from equipoise.engine.errors import UserError
from equipoise.engine.training.step import init_state, make_train_step
from equipoise.engine.update import optim
from equipoise.tasks.kinds.classification import Classification

PARAMS = {"a": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
ZERO = {"a": {"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}, "head": {"kernel": jnp.zeros(2)}}


def one_update(config, grads):
    chain = optim.make(config)
    return chain.update(grads, chain.init(PARAMS), PARAMS)[0]


def test_weight_decay_spares_biases():
    updates = one_update(Optimizer(name="adamw", learning_rate=0.1, weight_decay=0.5), ZERO)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["a"]["bias"], 0)


def test_freeze_leaves_matching_paths_alone():
    updates = one_update(Optimizer(name="sgd", learning_rate=0.1, freeze="^a/"), PARAMS)
    np.testing.assert_allclose(updates["a"]["kernel"], 0)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_schedule_is_put_at_a_count_and_nothing_else(name):
    """Schedules move wherever in the chain they are; Adam's own count and moments stay."""
    config = Optimizer(
        name=name, learning_rate=0.1, clip_norm=1.0, freeze="^a/", schedule="exponential", decay_steps=1
    )
    chain = optim.make(config)
    _, state = chain.update(PARAMS, chain.init(PARAMS), PARAMS)
    moved = optim.at({"one": state}, jnp.int32(7))["one"]
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state, moved))
    assert sum(changed) == 1
    slow, fast = (chain.update(PARAMS, s, PARAMS)[0]["head"]["kernel"] for s in (moved, state))
    np.testing.assert_allclose(slow / fast, 0.1 ** (7 - 1), rtol=1e-5)


def test_freezing_nothing_is_an_error():
    with pytest.raises(UserError, match="matches no parameter"):
        optim.make(Optimizer(freeze="nowhere")).init(PARAMS)


def test_partition_and_its_inverse():
    trained, frozen = optim.partition(PARAMS, "kernel$")
    assert frozen == {"a": {"kernel": PARAMS["a"]["kernel"], "bias": None}, "head": PARAMS["head"]}
    assert jax.tree.structure(trained) == jax.tree.structure(
        {"a": {"kernel": None, "bias": 0}, "head": {"kernel": None}}
    )
    assert jax.tree.structure(optim.combine(trained, frozen)) == jax.tree.structure(PARAMS)
    assert optim.partition(PARAMS, "")[0] == PARAMS


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_frozen_has_no_gradient_and_the_rest_the_same(rng, accumulate):
    """The update is that of a step that differentiates in everything, and its program lacks the products for what is frozen."""
    config = Run(model=Model(name="tests.tiny_network:Model", args={"width": 32, "dropout": 0.0}))
    config.data.preprocess, config.optimizer.accumulate = "", accumulate
    task, image = Classification("sex", ("F", "M"), "M"), rng.normal(size=(8, 16, 16, 1)).astype(np.float32)
    batch = {
        "image": image,
        "target": rng.integers(0, 2, 8),
        "scale": np.tile(np.float32([1, 0]), (8, 1)),
        "weight": np.ones(8, np.float32),
        "position": np.arange(8),
    }
    model = models.build(config.model.name, num_outputs=2, **config.model.args)
    ended, products, norms = {}, {}, {}
    for freeze in ("", "^hidden/"):
        config = replaced(config, **{"optimizer.freeze": freeze})
        optimizer = optim.make(config.optimizer)
        state = init_state(config, model, optimizer, (16, 16, 1))
        compiled = jax.jit(make_train_step(config, model, task, optimizer)).lower(state, batch).compile()
        ended[freeze], metrics = compiled(state, batch)
        products[freeze], norms[freeze] = compiled.cost_analysis()["flops"], metrics["grad_norm"]
    whole, part = ended.values()
    jax.tree.map(np.testing.assert_array_equal, part.params["hidden"], state.params["hidden"])
    for name in ("norm", "head"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole.params[name], part.params[name]
        )
    kernel = 2 * image.size * 32  # of the frozen kernel, or of its gradient
    assert products[""] - products["^hidden/"] > 0.9 * kernel
    assert 0 < norms["^hidden/"] < norms[""]


def test_clipping_bounds_the_global_norm():
    updates = one_update(Optimizer(name="sgd", learning_rate=1.0, momentum=0.0, clip_norm=0.5), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Optimizer(learning_rate=2.0), {0: 2.0, 100: 2.0}),
        (Optimizer(learning_rate=2.0, schedule="cosine", decay_steps=10), {0: 2.0, 5: 1.0, 10: 0.0, 99: 0.0}),
        (
            Optimizer(learning_rate=2.0, schedule="exponential", decay_steps=10, decay_rate=0.1),
            {10: 0.2, 20: 0.02},
        ),
        (
            Optimizer(learning_rate=2.0, schedule="poly", decay_steps=10, decay_power=2.0, warmup_steps=1),
            {1: 2.0, 6: 0.5, 11: 0.0, 50: 0.0},
        ),
        (Optimizer(learning_rate=2.0, warmup_steps=4), {0: 0.0, 2: 1.0, 4: 2.0, 50: 2.0}),
    ],
)
def test_schedules_by_hand(config, expected):
    rate = optim.schedule(config)
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, atol=1e-6)
