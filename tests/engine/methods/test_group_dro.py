"""Group DRO against a plain loop."""

import jax
import numpy as np
import pytest

from tests.engine.methods.tiny_methods import BATCH, DISEASE, SEX, Rows, batch_of, tiny_machine, tiny_method


def twin(torch, params):
    """``tests.tiny_network`` in PyTorch: (feature, head) of [b, h, w, 1] images, and the layers."""
    hidden, norm, head = torch.nn.Linear(64, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)
    with torch.no_grad():
        for name, layer in (("hidden", hidden), ("head", head)):
            layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"]).T))
            layer.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
    return lambda x: norm(hidden(torch.from_numpy(x).flatten(1))), hidden, norm, head


def test_group_dro_is_the_plain_loop(rng):
    """Every group's mean loss by itself, from PyTorch's forward pass and autograd; q in plain NumPy."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer: pip install 'equipoise[bench]'")
    config, method = tiny_method("group_dro", Rows(DISEASE, sex=["F"] * 4 + ["M"] * 4 + ["X"] * 2))
    config.optimizer.momentum = 0.0
    _, state, step = tiny_machine(config, method)
    feature, *layers = twin(torch, state.params)
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.05)
    q = np.full(3, 1 / 3)
    for number in range(4):
        # the third group is absent from even batches; one image is of unknown group
        batch = batch_of(rng, [0, 0, 0, 0, 0, 1, 1, 1, -1, 0, 1, 2 if number % 2 else 0])
        output, target = layers[-1](feature(batch["image"])), torch.from_numpy(batch["target"]).long()
        each = torch.nn.functional.cross_entropy(output, target, reduction="none")
        inside = [torch.from_numpy(batch["group"] == g) for g in range(3)]
        means = [each[i].mean() if i.any() else torch.tensor(0.0) for i in inside]
        for g in range(3):
            q[g] *= np.exp(0.5 * means[g].item())
        q /= q.sum()
        objective = ((BATCH - 1) * sum(q[g] * means[g] for g in range(3)) + each[8]) / BATCH
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        state, shown = step(state, batch)
        assert float(shown["loss"]) == pytest.approx(objective.item(), rel=2e-4)
        np.testing.assert_allclose([shown[f"group_weight:{s}"] for s in "FMX"], q, rtol=1e-4)
    np.testing.assert_allclose(
        state.params["hidden"]["kernel"].T, layers[0].weight.detach(), rtol=1e-3, atol=1e-5
    )


def test_group_dro_with_microbatches_weighs_by_the_whole_batch(rng):
    """Each half alone holds one group; a network without batch statistics makes the update that of one batch."""
    results = []
    for parts in (1, 2):
        config, method = tiny_method("group_dro", Rows(DISEASE, sex=SEX))
        config.optimizer.accumulate, config.model.args["use_norm"] = parts, False
        _, state, step = tiny_machine(config, method)
        for _ in range(2):
            state, _ = step(state, batch_of(np.random.default_rng(5), [0, 1] * 6))
        results.append(jax.device_get(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)


def test_group_dro_with_everyone_unknown_is_erm(rng):
    config, method = tiny_method("group_dro", Rows(DISEASE, sex=SEX))
    batch = batch_of(rng, [-1] * BATCH)
    _, state, step = tiny_machine(config, method)
    plain_config, plain = tiny_method("erm", None)
    _, plain_state, plain_step = tiny_machine(plain_config, plain)
    state, shown = step(state, batch)
    plain_state, expected = plain_step(plain_state, batch)
    assert float(shown["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.params, plain_state.params
    )
