"""Unlearning against the same three updates in PyTorch."""

import numpy as np
import pytest

from equipoise.engine.errors import UserError
from tests.engine.methods.test_group_dro import twin
from tests.engine.methods.tiny_methods import DISEASE, SEX, Rows, batch_of, tiny_machine, tiny_method


@pytest.mark.parametrize("name", ["unlearning", "adversarial"])
def test_unlearning_is_pytorchs(rng, name):
    """Phases, the three updates and which of them moves what, over five batches; running statistics move once each."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer: pip install 'equipoise[bench]'")
    config, method = tiny_method(name, Rows(DISEASE, sex=SEX))
    config.optimizer.weight_decay = 0.01
    _, state, step = tiny_machine(config, method)
    feature, hidden, norm, head = twin(torch, state.params)
    group_head = torch.nn.Linear(3, 2)
    with torch.no_grad():
        group_head.weight.copy_(torch.from_numpy(np.array(state.method["head"]["kernel"]).T))
        group_head.bias.zero_()

    def sgd(decay, *modules):
        weights = [m.weight for m in modules if not isinstance(m, torch.nn.BatchNorm1d)]
        others = [p for m in modules for p in m.parameters() if not any(p is w for w in weights)]
        each = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.SGD(each, lr=0.05, momentum=0.9)

    optimizers = sgd(0.01, hidden, norm, head), sgd(0.01, group_head), sgd(0.0, hidden, norm)
    for number in range(5):
        batch = batch_of(rng, [0, 1, 0, 1, 1, 0, -1, 0, 1, 0, 0, -1])
        x = batch["image"]
        target, group = torch.from_numpy(batch["target"]).long(), torch.from_numpy(batch["group"]).long()
        known = group >= 0
        losses = []

        def update(optimizer, loss, losses=losses):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

        update(optimizers[0], torch.nn.functional.cross_entropy(head(feature(x)), target))
        buffers = [b.clone() for b in norm.buffers()]
        if number >= 1:
            logits = group_head(feature(x).detach())
            update(optimizers[1], 0.7 * torch.nn.functional.cross_entropy(logits[known], group[known]))
        if number >= 2:
            logits = group_head(feature(x))[known]
            if name == "unlearning":
                update(optimizers[2], 2.0 * -torch.log_softmax(logits, 1).mean())
            else:
                counts = torch.tensor([SEX.count("F"), SEX.count("M")])
                right = torch.softmax(logits, 1)[torch.arange(len(logits)), group[known]]
                update(optimizers[2], 2.0 * (right * (counts.sum() / (2 * counts))[group[known]]).mean())
        for buffer, value in zip(norm.buffers(), buffers, strict=True):
            buffer.copy_(value)
        state, shown = step(state, batch)
        names = ("loss", "group_head_loss", "confusion_loss")[: len(losses)]
        assert [n for n in ("loss", "group_head_loss", "confusion_loss") if n in shown] == list(names)
        np.testing.assert_allclose([shown[n] for n in names], losses, rtol=2e-4)
    found = state.params | {"group_head": state.method["head"]}
    for ours, theirs in (
        (np.asarray(found["hidden"]["kernel"]).T, hidden.weight),
        (np.asarray(found["norm"]["scale"]), norm.weight),
        (np.asarray(found["head"]["kernel"]).T, head.weight),
        (np.asarray(found["group_head"]["kernel"]).T, group_head.weight),
        (np.asarray(state.batch_stats["norm"]["mean"]), norm.running_mean),
    ):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_an_unknown_block_is_refused(rng):
    config, method = tiny_method("unlearning", Rows(DISEASE, sex=SEX), block="poled")
    with pytest.raises(UserError, match="the model's features are hidden, pooled"):
        tiny_machine(config, method)
