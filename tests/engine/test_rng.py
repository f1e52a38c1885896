import jax
import jax.numpy as jnp

from equipoise.engine import rng


def bits(key):
    return jax.random.key_data(key).tolist()


def test_streams_differ_by_seed_name_and_step_and_repeat():
    keys = [rng.key(*a) for a in ((0, "dropout", 0), (1, "dropout", 0), (0, "augment", 0), (0, "dropout", 1))]
    assert len({str(bits(k)) for k in keys}) == 4
    assert bits(rng.key(0, "dropout", 1)) == bits(keys[3])


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda s: jax.random.key_data(rng.key(0, "dropout", s)))(jnp.int32(9))
    assert traced.tolist() == bits(rng.key(0, "dropout", 9))


def test_example_keys_follow_the_position():
    stream = rng.key(0, "augment", 2)
    whole = rng.example_keys(stream, jnp.arange(8))
    assert bits(whole[3:5]) == bits(rng.example_keys(stream, jnp.array([3, 4])))
