"""Every method against an independent reference: hand-computed weights, plain NumPy, PyTorch, and separate runs."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from equipoise.engine import config as run_config
from equipoise.engine import data, mesh, methods, models, validation
from equipoise.engine.config import Run
from equipoise.engine.data import shuffled
from equipoise.engine.errors import UserError
from equipoise.engine.methods import groups
from equipoise.engine.training import choosing, loop
from equipoise.engine.training.step import init_state, make_predict_step, make_train_step
from equipoise.engine.update import optim
from equipoise.engine.update.state import TrainState
from equipoise.tasks import make_task
from equipoise.tasks.kinds.classification import Classification
from tests import tiny_runs

SHAPE, BATCH = (8, 8, 1), 12
TASK = Classification("disease", ("absent", "present"), "present")
SETTINGS = {
    "group_dro": {"step_size": 0.5},
    "unlearning": {"pretrain_steps": 1, "head_steps": 1, "alpha": 0.7, "beta": 2.0},
    "adversarial": {"pretrain_steps": 1, "head_steps": 1, "alpha": 0.7, "beta": 2.0},
    "group_models": {"pretrain_steps": 2},
    "fedavg": {"site": "sex"},
    "fedprox": {"site": "sex", "mu": 0.1, "proximal": "norm"},
    "travelling": {"site": "sex"},
    "harmony_tm": {"site": "sex", "alpha": 0.7, "beta": 2.0},
    "fedtm": {"site": "sex", "warm_rounds": 1, "warm_epochs": 1, "min_scans": 25},
}


class Rows:
    """A training split as methods see it."""

    cohort, name = "made", "train"
    target = data.Split.target

    def __init__(self, disease, **attributes):
        self._attributes = attributes
        self.columns = pd.DataFrame({"label:disease": disease} | attributes)

    def vocabulary(self, kind):
        if kind == "labels":
            return {"disease": ["absent", "present"]}
        levels = {k: sorted({*v, "unknown"} - {"never"}) for k, v in self._attributes.items()}
        return levels | {"age": None}


def made(name, split, **settings):
    config = Run(seed=1)
    config.data.preprocess, config.data.batch_size = "", BATCH
    config.task.label = "disease"
    config.model.name, config.model.args = "tests.tiny_network:Model", {"dropout": 0.0}
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.05
    config.method = run_config.Method(name=name, group="sex", **(SETTINGS.get(name, {}) | settings))
    return config, methods.make(config, split)


def batch_of(rng, group, shape=SHAPE, dtype=np.float32):
    n = len(group)
    return {
        "image": rng.normal(size=(n, *shape)).astype(dtype),
        "target": rng.integers(0, 2, n).astype(np.int32),
        "scale": np.tile(dtype([1, 0]), (n, 1)),
        "weight": np.ones(n, np.float32),
        "position": np.arange(n, dtype=np.int32),
        "group": np.asarray(group, np.int32),
    }


def machine(config, method):
    """(fresh state, phase -> compiled step) of a tiny 2D network."""
    runner = mesh.make_runner(config)
    model = models.build(config.model.name, num_outputs=2, **config.model.args)
    optimizer = optim.make(config.optimizer)
    state = runner.replicate(init_state(config, model, optimizer, SHAPE, method))
    steps = {}

    def step(state, batch):
        phase = method.phase(int(state.step))
        if phase not in steps:
            made = make_train_step(config, model, TASK, optimizer, None, method, phase)
            steps[phase] = runner.train(made)
        return steps[phase](state, runner.shard(batch))

    return model, state, step


SEX = ["F"] * 6 + ["M"] * 3 + ["unknown"]
DISEASE = [0, 0, 0, 0, 1, 1, 0, 1, 1, 1]


def test_the_registry_is_what_the_configuration_offers():
    assert tuple(methods.METHODS) == validation.CHOICES["method.name"]


def test_groups_are_known_levels_with_images():
    split = Rows([0] * 4, sex=["F", "M", "unknown", "F"], site=["A", "B", "A", "never"])
    found = groups.trained(split, "sex*site")
    assert found.levels == ("F*A", "M*B")
    assert found.code(split).tolist() == [0, 1, -1, -1]
    with pytest.raises(UserError, match="no attribute 'sexx'. Did you mean 'sex'"):
        groups.trained(split, "sexx")
    with pytest.raises(UserError, match="'age' is a number"):
        groups.trained(split, "age")
    with pytest.raises(UserError, match=r"in 1 group\(s\) \(F\)"):
        groups.trained(Rows([0, 1], sex=["F", "unknown"]), "sex")


def test_weights_by_hand():
    """Nine images are known; 5 are healthy, 6 are F, 4 are healthy and F: w = 5/9 6/9 / (4/9) = 5/6, and so on."""
    _, method = made("reweighing", Rows(DISEASE, sex=SEX))
    expected = [[5 * 6 / (9 * 4), 5 * 3 / (9 * 1), 1], [4 * 6 / (9 * 2), 4 * 3 / (9 * 2), 1]]
    np.testing.assert_allclose(method.table, expected)
    batch = {"target": np.array([0, 1, 1]), "group": np.array([0, 1, -1]), "weight": np.ones(3, np.float32)}
    np.testing.assert_allclose(method.weigh((), (), batch), [5 / 6, 2 / 3, 1], rtol=1e-6)


def test_reweighing_makes_class_and_group_independent(rng):
    split = Rows(rng.integers(0, 2, 500), sex=rng.choice(["F", "M", "X"], 500, p=[0.7, 0.2, 0.1]).tolist())
    _, method = made("reweighing", split)
    weight = method.table[method.target, method.code]
    joint = np.zeros((2, 3))
    np.add.at(joint, (method.target, method.code), weight)
    np.testing.assert_allclose(joint, np.outer(joint.sum(1), joint.sum(0)) / joint.sum())
    assert weight.mean() == pytest.approx(1)


def test_a_reweighed_loss_is_a_mean_over_examples(rng):
    """The plain step divides by the sum of weights, the method by the number of examples."""
    config, method = made("reweighing", Rows(DISEASE, sex=SEX))
    batch = batch_of(rng, [0, 1, -1] * 4)
    weights = method.table[batch["target"], batch["group"]].astype(np.float32)
    _, state, step = machine(config, method)
    plain_config, plain = made("erm", None)
    _, plain_state, plain_step = machine(plain_config, plain)
    _, shown = step(state, batch)
    _, expected = plain_step(plain_state, batch | {"weight": weights})
    for name in ("loss", "grad_norm"):
        by_hand = float(expected[name]) * weights.sum() / BATCH
        assert float(shown[name]) == pytest.approx(by_hand, rel=1e-5)


def test_resampling_balances_cells_and_keeps_the_unknown_at_their_share():
    config, method = made("resampling", Rows(DISEASE * 20, sex=SEX * 20))
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
    config, method = made("group_dro", Rows(DISEASE, sex=["F"] * 4 + ["M"] * 4 + ["X"] * 2))
    config.optimizer.momentum = 0.0
    _, state, step = machine(config, method)
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
        config, method = made("group_dro", Rows(DISEASE, sex=SEX))
        config.optimizer.accumulate, config.model.args["use_norm"] = parts, False
        _, state, step = machine(config, method)
        for _ in range(2):
            state, _ = step(state, batch_of(np.random.default_rng(5), [0, 1] * 6))
        results.append(jax.device_get(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)


def test_group_dro_with_everyone_unknown_is_erm(rng):
    config, method = made("group_dro", Rows(DISEASE, sex=SEX))
    batch = batch_of(rng, [-1] * BATCH)
    _, state, step = machine(config, method)
    plain_config, plain = made("erm", None)
    _, plain_state, plain_step = machine(plain_config, plain)
    state, shown = step(state, batch)
    plain_state, expected = plain_step(plain_state, batch)
    assert float(shown["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.params, plain_state.params
    )


@pytest.mark.parametrize("name", ["reweighing", "group_dro", "unlearning"])
@pytest.mark.parametrize("group", [[0] * BATCH, [-1] * BATCH], ids=["one group", "nobody known"])
def test_absent_groups_give_no_nan(rng, name, group):
    config, method = made(
        name,
        Rows(DISEASE, sex=SEX),
        **({"pretrain_steps": 0, "head_steps": 0} if name == "unlearning" else {}),
    )
    _, state, step = machine(config, method)
    for _ in range(2):
        state, shown = step(state, batch_of(rng, group))
    assert all(np.isfinite(v) for v in shown.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["unlearning", "adversarial"])
def test_unlearning_is_pytorchs(rng, name):
    """Phases, the three updates and which of them moves what, over five batches; running statistics move once each."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer: pip install 'equipoise[bench]'")
    config, method = made(name, Rows(DISEASE, sex=SEX))
    config.optimizer.weight_decay = 0.01
    _, state, step = machine(config, method)
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


def test_group_models_are_separately_fine_tuned_runs(rng):
    split = Rows(DISEASE * 4, sex=SEX * 4)
    config, method = made("group_models", split)
    images = batch_of(rng, method.code) | {"target": method.target.astype(np.int32)}

    def stream(order, step):
        rows = [int(order[step * BATCH + i]) for i in range(BATCH)]
        return {k: v[rows] for k, v in images.items()} | {"position": np.arange(BATCH, dtype=np.int32)}

    model, state, step = machine(config, method)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(state.method))
    order = method.order()
    for number in range(2 + 2 * 3):
        state, _ = step(state, stream(order, number))

    plain_config, plain = made("erm", None)
    _, everyone, plain_step = machine(plain_config, plain)
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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("fed", "travelling")))
        for name in tiny_runs.OF_CLASSES  # across sites, tests/engine/methods/test_federated.py has the one that is most
    ],
)
def test_every_method_trains_and_goes_on_as_if_never_stopped(tiny_data_dir, tmp_path, name):
    """Four steps, and the last two again from the checkpoint at step 2: equal to the bit, across a method's phases."""
    config = tiny_runs.get_config()
    config.num_steps, config.model.args = 4, {}
    config.model.name, config.data.augment = "tests.tiny_network:Model", "flip(axis=1)"
    config.evaluation.every_steps = config.checkpoint.every_steps = 2
    config.writers.console = False
    config.method = run_config.Method(name=name, group="sex", **SETTINGS.get(name, {}))
    validation.validate(config)
    task = make_task(config, data.open_split("tiny", "train", tiny_data_dir))
    (whole,) = jax.device_get(loop.train(config, task, tiny_data_dir, tmp_path))
    rows = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    (again,) = loop.train(config, task, tiny_data_dir, tmp_path)
    assert int(again.step) == 4
    jax.tree.map(np.testing.assert_array_equal, whole, jax.device_get(again))
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows


def test_settings_that_cannot_work_are_refused():
    config = tiny_runs.get_config()
    for changes, words in (
        (
            {"method.name": "erm", "method.alpha": 0.5},
            "alpha has no effect with erm: it belongs to unlearning",
        ),
        (
            {"method.name": "group_models", "method.group": "sex", "method.pretrain_steps": 12},
            "num_steps=12 ends before group_models is in force",
        ),
        ({"method.name": "group_dro"}, "needs --config.method.group"),
        ({"method.name": "groupdro"}, "Did you mean 'group_dro'"),
        (
            {"method.name": "unlearning", "method.group": "sex", "method.beta": -1.0},
            "beta=-1.0 must be at least 0",
        ),
    ):
        with pytest.raises(UserError, match=words):
            validation.validate(run_config.replaced(config, **changes))


def test_a_checkpoint_from_before_the_method_is_never_the_best(tmp_path):
    config = tiny_runs.get_config()
    config.method = run_config.Method("unlearning", "sex", pretrain_steps=2, head_steps=2)
    rows = [
        {"step": s, "split": "validation", "auroc": a} for s, a in ((2, 0.9), (4, 0.8), (6, 0.6), (8, 0.7))
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert choosing.best_step(tmp_path, config, [2, 4, 6, 8]) == 8
    config.method = run_config.Method()
    assert choosing.best_step(tmp_path, config, [2, 4, 6, 8]) == 2


def test_an_unknown_block_is_refused(rng):
    config, method = made("unlearning", Rows(DISEASE, sex=SEX), block="poled")
    with pytest.raises(UserError, match="the model's features are hidden, pooled"):
        machine(config, method)
