"""Reweighing and resampling against weights by hand."""

import numpy as np
import pytest

from equipoise.engine import methods
from tests.engine.methods.tiny_methods import BATCH, DISEASE, SEX, Rows, batch_of, tiny_machine, tiny_method


def test_weights_by_hand():
    """Nine images are known; 5 are healthy, 6 are F, 4 are healthy and F: w = 5/9 6/9 / (4/9) = 5/6, and so on."""
    _, method = tiny_method("reweighing", Rows(DISEASE, sex=SEX))
    expected = [[5 * 6 / (9 * 4), 5 * 3 / (9 * 1), 1], [4 * 6 / (9 * 2), 4 * 3 / (9 * 2), 1]]
    np.testing.assert_allclose(method.table, expected)
    batch = {"target": np.array([0, 1, 1]), "group": np.array([0, 1, -1]), "weight": np.ones(3, np.float32)}
    np.testing.assert_allclose(method.weigh((), (), batch), [5 / 6, 2 / 3, 1], rtol=1e-6)


def test_reweighing_makes_class_and_group_independent(rng):
    split = Rows(rng.integers(0, 2, 500), sex=rng.choice(["F", "M", "X"], 500, p=[0.7, 0.2, 0.1]).tolist())
    _, method = tiny_method("reweighing", split)
    weight = method.table[method.target, method.code]
    joint = np.zeros((2, 3))
    np.add.at(joint, (method.target, method.code), weight)
    np.testing.assert_allclose(joint, np.outer(joint.sum(1), joint.sum(0)) / joint.sum())
    assert weight.mean() == pytest.approx(1)


def test_a_reweighed_loss_is_a_mean_over_examples(rng):
    """The plain step divides by the sum of weights, the method by the number of examples."""
    config, method = tiny_method("reweighing", Rows(DISEASE, sex=SEX))
    batch = batch_of(rng, [0, 1, -1] * 4)
    weights = method.table[batch["target"], batch["group"]].astype(np.float32)
    _, state, step = tiny_machine(config, method)
    plain_config, plain = tiny_method("erm", None)
    _, plain_state, plain_step = tiny_machine(plain_config, plain)
    _, shown = step(state, batch)
    _, expected = plain_step(plain_state, batch | {"weight": weights})
    for name in ("loss", "grad_norm"):
        by_hand = float(expected[name]) * weights.sum() / BATCH
        assert float(shown[name]) == pytest.approx(by_hand, rel=1e-5)


def test_resampling_balances_cells_and_keeps_the_unknown_at_their_share():
    config, method = tiny_method("resampling", Rows(DISEASE * 20, sex=SEX * 20))
    order, n = method.order(), 20_000
    rows = np.asarray([order[i] for i in range(n)])
    cells = 3 * method.target[rows] + method.code[rows] + 1
    share = np.bincount(cells, minlength=6) / n
    expected = np.asarray([0, 0.225, 0.225, 0.1, 0.225, 0.225])  # 9 of 10 known, in 4 cells
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.225 * 0.775 / n)
    assert [order[i] for i in (7, 3, 7)] == [rows[7], rows[3], rows[7]]
    config.seed = 2
    assert [methods.make(config, Rows(DISEASE * 20, sex=SEX * 20)).order()[i] for i in range(20)] != rows[
        :20
    ].tolist()
