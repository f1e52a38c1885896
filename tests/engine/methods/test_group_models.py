"""Group models against separate runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine.data import shuffled
from equipoise.engine.training.step import make_predict_step
from equipoise.engine.update.state import TrainState
from tests.engine.methods.tiny_methods import (
    BATCH,
    DISEASE,
    SEX,
    TASK,
    Rows,
    batch_of,
    tiny_machine,
    tiny_method,
)


def test_group_models_are_separately_fine_tuned_runs(rng):
    split = Rows(DISEASE * 4, sex=SEX * 4)
    config, method = tiny_method("group_models", split)
    images = batch_of(rng, method.code) | {"target": method.target.astype(np.int32)}

    def stream(order, step):
        rows = [int(order[step * BATCH + i]) for i in range(BATCH)]
        return {k: v[rows] for k, v in images.items()} | {"position": np.arange(BATCH, dtype=np.int32)}

    model, state, step = tiny_machine(config, method)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(state.method))
    order = method.order()
    for number in range(2 + 2 * 3):
        state, _ = step(state, stream(order, number))

    plain_config, plain = tiny_method("erm", None)
    _, everyone, plain_step = tiny_machine(plain_config, plain)
    for number in range(2):
        everyone, _ = plain_step(everyone, stream(shuffled(np.arange(40), 1), number))
    kept = jax.device_get(everyone)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), kept.params)
    expected = {-1: jax.tree.map(jnp.array, kept)}
    for group in range(2):
        one = jax.tree.map(jnp.array, kept)
        own = shuffled(np.flatnonzero(method.code == group), 1)
        for turn in range(3):
            # randomness is keyed to the run's step; there is none in this network
            one, _ = plain_step(one.replace(step=jnp.int32(2 + 2 * turn + group)), stream(own, turn))
        expected[group] = one
        for name in ("params", "batch_stats", "opt_state"):
            mine = jax.tree.map(lambda x, g=group: np.asarray(x[g]), state.method[name])
            jax.tree.map(np.testing.assert_array_equal, mine, jax.tree.map(np.asarray, getattr(one, name)))

    batch = batch_of(rng, [0, 1, -1, 1]) | {"index": np.arange(4)}
    predict = make_predict_step(config, model, TASK, method)
    batch = jax.tree.map(jnp.asarray, batch)
    scores = predict(method.variables(state), batch)["score"]
    alone = make_predict_step(plain_config, model, TASK)
    for place, group in enumerate([0, 1, -1, 1]):
        want = alone(plain.variables(expected[int(group)]), batch)["score"][place]
        assert float(scores[place]) == pytest.approx(float(want), rel=1e-5)
    early = TrainState(jnp.int32(3), state.params, state.batch_stats, state.opt_state, state.method)
    before = predict(method.variables(early), batch)["score"]  # group 1 had no turn yet
    np.testing.assert_allclose(before[1], alone(plain.variables(expected[-1]), batch)["score"][1], rtol=1e-5)
