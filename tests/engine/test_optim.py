import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from engine import optim
from engine.config import Optimizer, UserError

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
    """In whatever the chain wraps it; Adam's own count, and its moments, stay."""
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
        (Optimizer(learning_rate=2.0, warmup_steps=4), {0: 0.0, 2: 1.0, 4: 2.0, 50: 2.0}),
    ],
)
def test_schedules_by_hand(config, expected):
    rate = optim.schedule(config)
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, atol=1e-6)
