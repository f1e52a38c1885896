"""Learning across sites: every schedule against its plain loop, and what a site, a cycle and a kill must not change."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from equipoise.engine import config as run_config
from equipoise.engine import data, hosts, mesh, methods, models, validation
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.methods import federated
from equipoise.engine.training import loop, population
from equipoise.engine.training.step import init_state, make_train_step
from equipoise.engine.update import optim
from equipoise.tasks import make_task
from equipoise.tasks.kinds.classification import Classification
from tests import oracles, tiny_runs
from tests.engine.methods.tiny_methods import Rows

SHAPE, BATCH, SEED = (4, 4, 1), 5, 3
TASK = Classification("disease", ("absent", "present"), "present")
SIZES = {"A": 7, "B": 1, "C": 12, "D": 2, "E": 5}  # B, D and E have one class
DISEASE = [0, 1, 1, 0, 1, 0, 0, 1, *[0, 1, 0] * 4, 0, 0, *[1] * 5, 0, 1]
SITE = [name for name, size in SIZES.items() for _ in range(size)] + ["unknown"] * 2
SCANNER = ["Q", "P", "Q", "P", "P", "R", "Q", "P", *"PQQRPQPRQPQQ", "R", "P", *"QPRQP", "Q", "P"]
UPDATES = 2 + 1 + 3 + 1 + 1


@pytest.fixture(autouse=True)
def float64():
    """Switches 64-bit arithmetic and quick compilation on, for one test."""
    for name in ("jax_enable_x64", "jax_disable_most_optimizations"):
        jax.config.update(name, True)
    yield
    for name in ("jax_enable_x64", "jax_disable_most_optimizations"):
        jax.config.update(name, False)


def rate(cycle):
    return 2.0 ** (-4 - cycle)  # exact in the 32 bits of an optax schedule


def tiny_method(name, site=SITE, optimizer="sgd", freeze="hidden/bias", **settings):
    config = Run(seed=SEED)
    config.data.cohort, config.data.preprocess, config.data.batch_size = "made", "", BATCH
    config.task.label = "disease"
    config.model.name, config.model.args = "tests.tiny_network:Model", {"dropout": 0.0}
    config.model.dtype = "float64"
    config.optimizer.name, config.optimizer.learning_rate = optimizer, rate(0)
    config.optimizer.schedule, config.optimizer.decay_steps = "exponential", 1
    config.optimizer.decay_rate, config.optimizer.freeze = 0.5, freeze
    group = "scanner" if name in ("harmony_tm", "unlearning") else ""
    where = {"site": "site"} if name != "erm" else {}
    config.method = run_config.Method(name=name, group=group, **(where | settings))
    validation.validate(config)
    return methods.make(config, Rows(DISEASE[: len(site)], site=site, scanner=SCANNER[: len(site)]))


@pytest.fixture(scope="module")
def images():
    """Faint images: the gradient of a normalised batch of one image is 0 except for rounding, which grows with their square."""
    return np.random.default_rng(1).normal(size=(len(SITE), *SHAPE)) / 10


class Engine:
    """Runs a method on given images, update by update, with the order, phases and steps of the engine."""

    def __init__(self, method, images, order=None):
        self.method, self.images, self.order = method, images, order or method.order()
        self.config, self.steps = method.config, {}
        self.runner = mesh.make_runner(self.config)
        self.model = models.build(
            self.config.model.name, num_outputs=2, dtype="float64", **self.config.model.args
        )
        self.optimizer = optim.make(self.config.optimizer)
        init = jax.jit(lambda: init_state(self.config, self.model, self.optimizer, SHAPE, method))
        self.state = self.runner.replicate(init())
        self.start = jax.device_get(self.state)

    def update(self, size=BATCH):
        step = int(self.state.step)
        rows = [self.order[step * BATCH + place] for place in range(size)]
        batch = {
            "image": self.images[rows],
            "target": np.asarray(DISEASE, np.int32)[rows],
            "scale": np.tile([1.0, 0.0], (size, 1)),
            "weight": np.ones(size, np.float32),
            "position": np.arange(size, dtype=np.int32),
        }
        if self.method.code is not None:
            batch["group"] = self.method.code[rows]
        phase = self.method.phase(step)
        if phase not in self.steps:
            made = make_train_step(self.config, self.model, TASK, self.optimizer, None, self.method, phase)
            self.steps[phase] = self.runner.train(made)
        self.state, _ = self.steps[phase](self.state, self.runner.shard(batch))

    def cycle(self):
        """Goes on to the end of the cycle; returns the variables that then predict."""
        before = jax.device_get(self.method.variables(self.state))
        while True:
            self.update()
            found = jax.device_get(self.method.variables(self.state))
            if self.method.cycle(int(self.state.step)) is not None:
                return found["params"], found["batch_stats"]
            if self.method.tours[self.method._number(int(self.state.step))].is_round:
                same(found, before)


def same(found, expected, tolerance=0.0):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(check, found, expected)


def places():
    names = sorted(SIZES)  # in the order of the vocabulary
    return {k: np.flatnonzero(np.array(SITE) == name) for k, name in enumerate(names)}


TOLD = {"size": BATCH, "seed": SEED, "rate": rate}
EQUAL = dict.fromkeys(range(5), 1 / 5)
BY_SIZE = {k: SIZES[name] / 27 for k, name in enumerate(sorted(SIZES))}


@pytest.mark.parametrize(
    ("name", "settings", "shares", "more"),
    [
        ("fedavg", {"local_epochs": 2}, EQUAL, {}),
        pytest.param("fedavg", {"site_weights": "size"}, BY_SIZE, {}, marks=pytest.mark.slow),
        pytest.param("fedprox", {"mu": 0.7}, EQUAL, {"mu": 0.7}, marks=pytest.mark.slow),
        ("fedprox", {"mu": 0.7, "proximal": "norm"}, EQUAL, {"mu": 0.7, "squared": False}),
    ],
)
def test_rounds_are_the_plain_loop(images, name, settings, shares, more):
    engine = Engine(tiny_method(name, **settings), images)
    epochs = settings.get("local_epochs", 1)
    network = (engine.start.params, engine.start.batch_stats)
    given = (images, np.asarray(DISEASE))
    plain = oracles.federated_averaging(
        network, given, places(), rounds=2, shares=shares, epochs=epochs, **TOLD, **more
    )
    for expected in plain:
        same(engine.cycle(), expected, 1e-9)
    assert int(engine.state.step) == 2 * epochs * UPDATES


@pytest.mark.parametrize("is_fixed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_travelling_is_the_plain_loop(images, is_fixed):
    engine = Engine(tiny_method("travelling", fixed_order=is_fixed), images)
    order = lambda cycle: range(5) if is_fixed else oracles.journey(5, SEED, cycle)  # noqa: E731
    network, given = (engine.start.params, engine.start.batch_stats), (images, np.asarray(DISEASE))
    for expected in oracles.travelling(network, given, places(), cycles=3, epochs=1, order=order, **TOLD):
        same(engine.cycle(), expected, 1e-9)


def test_harmonising_is_the_plain_loop(images):
    settings = {"pretrain_cycles": 1, "head_cycles": 1, "alpha": 0.7, "beta": 2.0}
    engine = Engine(tiny_method("harmony_tm", **settings), images)
    plain = oracles.harmonising(
        (engine.start.params, engine.start.batch_stats),
        engine.start.method["head"],
        (images, np.asarray(DISEASE)),
        np.array(["PQR".index(s) for s in SCANNER]),
        places(),
        cycles=(1, 1, 2),
        epochs=1,
        order=lambda cycle: oracles.journey(5, SEED, cycle),
        alpha=0.7,
        beta=2.0,
        **TOLD,
    )
    for expected in plain:
        same((engine.cycle(), jax.device_get(engine.state.method["head"])), expected, 1e-9)


def test_fedtm_is_the_plain_loops_one_after_the_other(images):
    """The rounds visit A and C; E is large enough, but has only one class."""
    method = tiny_method("fedtm", warm_rounds=2, warm_epochs=3, min_scans=5, mu=0.3)
    engine = Engine(method, images)
    network, given = (engine.start.params, engine.start.batch_stats), (images, np.asarray(DISEASE))
    warm = {k: rows for k, rows in places().items() if k in (0, 2)}
    plain = oracles.federated_averaging(
        network, given, warm, rounds=2, shares={0: 0.5, 2: 0.5}, epochs=3, mu=0.3, **TOLD
    )
    for warmed in plain:
        same(engine.cycle(), warmed, 1e-9)
    assert int(engine.state.step) == method.starts_after == 2 * 3 * (2 + 3)
    order = lambda cycle: oracles.journey(5, SEED, cycle)  # noqa: E731
    for expected in oracles.travelling(
        warmed, given, places(), cycles=2, epochs=1, order=order, first=2, **TOLD
    ):
        same(engine.cycle(), expected, 1e-9)


def test_one_site_is_training_as_usual_in_its_order(images):
    site = ["A"] * 12
    averaged = tiny_method("fedavg", site)
    # rounds and updates count differently, and a round starts afresh
    averaged.config.optimizer.schedule, averaged.config.optimizer.momentum = "constant", 0.0
    ours = Engine(averaged, images)
    usual = Engine(methods.Method(averaged.config), images, ours.order)
    for size in (5, 5, 2, 5, 5, 2):  # an update on two images is that of a batch of two
        ours.update()
        usual.update(size)
    for name in ("params", "batch_stats"):
        same(ours.method.variables(ours.state)[name], getattr(usual.state, name), 1e-12)


ALIKE = ["A"] * 5 + ["B"] * 5 + ["C"] * 5  # sites of one batch of one size


def test_fedprox_without_its_term_is_fedavg(images):
    names = ({"name": "fedavg"}, {"name": "fedprox"}, {"name": "fedprox", "proximal": "norm"})
    engines = [Engine(tiny_method(site=ALIKE, **name), images) for name in names]
    averaged, *others = [[engine.cycle(), engine.cycle()] for engine in engines]
    for other in others:
        same(other, averaged)


def test_the_order_of_sites_is_nothing_to_an_average(images):
    """A site with another number has another place in the cycle, and its only batch another order."""
    found = []
    for names in ("ABC", "CAB"):
        engine = Engine(tiny_method("fedavg", [name for name in names for _ in range(5)]), images)
        engine.cycle()
        found.append(engine.cycle())
    same(*found, 1e-12)


def test_sites_start_afresh_but_the_rate_goes_on(images):
    """After a round Adam has no moments and a count of 0; its schedule stands at the round."""
    engine = Engine(tiny_method("fedavg", ALIKE, optimizer="adam", freeze=""), images)
    engine.cycle()
    adam, _ = engine.state.opt_state
    assert int(adam.count) == 0 and not any(np.any(x) for x in jax.tree.leaves((adam.mu, adam.nu)))
    engine.update()
    adam, schedule = engine.state.opt_state
    assert int(adam.count) == 0  # the visit was one update long
    travelling = Engine(tiny_method("travelling", ALIKE, optimizer="adam", freeze=""), images)
    travelling.cycle()
    travelling.update()
    adam, schedule = travelling.state.opt_state
    assert int(adam.count) == 4 and int(schedule.count) == 1 + 1  # cycle 1, and the update's own step


def test_an_epoch_is_every_image_of_a_site_once():
    method = tiny_method("travelling", local_epochs=2)
    assert method.tours[0].updates == 2 * UPDATES
    steps = [method.rows(step) for step in range(2 * UPDATES)]
    assert sorted(np.concatenate(steps)) == sorted([*range(27)] * 2)
    sites = np.array(SITE)
    assert all(len(set(sites[rows])) == 1 for rows in steps)
    whole = [tuple(sites[rows]) for rows in steps]
    assert whole != [tuple(sites[method.rows(step)]) for step in range(2 * UPDATES, 4 * UPDATES)]
    order = method.order()
    drawn = [order[i] for i in range(2 * UPDATES * BATCH)]
    for step, rows in enumerate(steps):
        batch = drawn[step * BATCH : (step + 1) * BATCH]
        assert batch[: len(rows)] == rows.tolist() and set(batch) == set(rows)
    other = dataclasses.replace(method, config=run_config.replaced(method.config, seed=4))
    assert [other.rows(step).tolist() for step in range(2 * UPDATES)] != [r.tolist() for r in steps]


def test_communication_by_hand():
    """A network of 16 * 3 + 3 + 3 + 3 + 3 * 2 + 2 parameters and 6 statistics, in doubles; Adam has two moments of each."""
    network, adam = 8 * (65 + 6), 8 * 2 * 65 + 4 + 4
    found = {}
    for name, settings in {
        "fedavg": {},
        "travelling": {},
        "fedtm": {"warm_rounds": 2, "min_scans": 5},
        "harmony_tm": {"head_cycles": 1},
    }.items():
        method = tiny_method(name, optimizer="adam", freeze="", **settings)
        model = models.build("tests.tiny_network:Model", num_outputs=2, dtype="float64")
        optimizer = optim.make(method.config.optimizer)
        state = jax.eval_shape(lambda: init_state(method.config, model, optimizer, SHAPE, method))  # noqa: B023
        found[name] = federated.communication(method, state, 6)
    visits = (
        2 * 2 * 2 + 4 * 5
    )  # of two sites, there and back, in two rounds; then of five sites in four cycles
    head = 8 * (3 * 3 + 3)
    assert found == {
        "fedavg": federated.Communication(6, 60, 60 * network, 0),
        "travelling": federated.Communication(6, 30, 30 * network, 30 * adam),
        "fedtm": federated.Communication(6, visits, visits * network, 20 * adam),
        "harmony_tm": federated.Communication(6, 30, 30 * (network + head), 30 * (2 * adam + 2 * head + 8)),
    }


def test_a_run_is_charged_for_the_cycles_that_are_complete():
    method = tiny_method("fedtm", optimizer="adam", freeze="", warm_rounds=2, min_scans=5, warm_epochs=1)
    model = models.build("tests.tiny_network:Model", num_outputs=2, dtype="float64")
    optimizer = optim.make(method.config.optimizer)
    state = jax.eval_shape(lambda: init_state(method.config, model, optimizer, SHAPE, method))
    round_, cycle = method.tours[0].updates, method.tours[1].updates
    sent = {
        s: method.cost(s, state)["transfers"] for s in (0, round_ - 1, round_, 2 * round_, 2 * round_ + cycle)
    }
    assert list(sent.values()) == [0, 0, 2 * 2, 2 * 2 * 2, 2 * 2 * 2 + 5]
    assert tiny_method("erm").cost(3, state) == {}


def test_a_run_of_cycles_has_as_many_updates(monkeypatch):
    said = []
    monkeypatch.setattr(federated.logging, "warning", lambda text, *values: said.append(text % values))
    for name, settings, length, first in (
        ("travelling", {"cycles": 30}, 30 * UPDATES, 0),
        ("fedavg", {"cycles": 3, "local_epochs": 2}, 3 * 2 * UPDATES, 0),
        ("fedtm", {"cycles": 7, "min_scans": 7, "warm_epochs": 1}, 2 * 5 + 5 * UPDATES, 10),
        ("harmony_tm", {"cycles": 9, "pretrain_cycles": 2, "head_cycles": 3}, 9 * UPDATES, 5 * UPDATES),
        ("travelling", {}, 1000, 0),
    ):
        method = tiny_method(name, **settings)
        run = method.resolved()
        assert (run.num_steps, run.method.starts_after) == (length, first)
        validation.validate(run)
        again = methods.make(run, Rows(DISEASE, site=SITE, scanner=SCANNER)).resolved()
        assert again == run
        if method.config.method.cycles:
            assert method.cycle(length) == method.config.method.cycles
            assert method.cycle(length - 1) is None
    assert said == ["2 training images of unknown site are not trained on"] * 10


def test_what_cannot_be_learned_across_sites_is_refused(monkeypatch):
    for settings, words in (
        ({"name": "fedavg", "site": ""}, "needs --config.method.site"),
        ({"name": "harmony_tm"}, "needs --config.method.group"),
        ({"name": "fedavg", "mu": 0.1}, "mu has no effect with fedavg: it belongs to fedprox, fedtm"),
        ({"name": "travelling", "site_weights": "sice"}, "Did you mean 'size'"),
        ({"name": "fedtm", "warm_rounds": 0}, "warm_rounds=0 must be above 0"),
        (
            {"name": "fedtm", "cycles": 2},
            "cycles=2 ends before fedtm is in force, which takes more than 2 cycles",
        ),
        ({"name": "travelling", "local_epochs": 0}, "local_epochs=0 must be above 0"),
    ):
        config = tiny_method("fedavg").config
        config.method = run_config.Method(**({"site": "site"} | settings))
        with pytest.raises(UserError, match=words):
            validation.validate(config)
    config = tiny_method("erm").config
    config.evaluation.every_cycles = 1
    with pytest.raises(
        UserError, match="every_cycles=1 must be 0, or above 0 with a method that visits sites"
    ):
        validation.validate(config)

    split = Rows(DISEASE, site=SITE, scanner=SCANNER)
    for changes, words in (
        (
            {"parallel.mode": "pmap"},
            "parallel.mode=pmap: fedavg has batches of the sizes that its sites give",
        ),
        ({"optimizer.accumulate": 2}, "accumulate=2: fedavg has batches"),
        ({"method.site": "sight"}, "--config.method.site=sight: .* Did you mean 'site'"),
        ({"method.site": "age"}, "--config.method.site=age: 'age' is a number"),
    ):
        with pytest.raises(UserError, match=words):
            methods.make(run_config.replaced(tiny_method("fedavg").config, **changes), split)
    with pytest.raises(UserError, match=r"site=site: .* in 0 group\(s\)"):
        tiny_method("fedavg", ["unknown"] * 3)
    with pytest.raises(UserError, match="min_scans=13: no site with more than one class .* largest has 12"):
        tiny_method("fedtm", min_scans=13).resolved()
    with pytest.raises(UserError, match="pretrain_steps=7: harmony_tm counts in cycles"):
        tiny_method("harmony_tm", pretrain_steps=7).resolved()
    monkeypatch.setattr(hosts, "count", lambda: 2)
    with pytest.raises(UserError, match="do not divide among processes"):
        tiny_method("fedavg")


def tiny(name, cycles, **settings):
    """A run on the tiny cohort, whose two sites are the sexes."""
    config = tiny_runs.get_config()
    config.model.name, config.model.args = "tests.tiny_network:Model", {}
    config.data.augment, config.data.batch_size = "flip(axis=1)", 25  # as many as the larger site has
    config.evaluation.every_cycles, config.checkpoint.every_steps, config.checkpoint.keep = 1, 2, 20
    config.writers.console = False
    config.method = run_config.Method(name=name, site="sex", cycles=cycles, **settings)
    validation.validate(config)
    return config


def test_a_run_stopped_in_a_visit_goes_on_as_if_never_stopped(tiny_data_dir, tmp_path):
    """A round of two visits of three updates, then two cycles of two; stopped in the second visit of the round."""
    config = tiny("fedtm", 3, warm_rounds=1, warm_epochs=3, min_scans=1, mu=0.1)
    task = make_task(config, data.open_split("tiny", "train", tiny_data_dir))
    (whole,) = jax.device_get(loop.train(config, task, tiny_data_dir, tmp_path))
    assert int(whole.step) == 10
    rows = (tmp_path / "metrics.jsonl").read_bytes()
    assert sorted(int(p.stem) for p in (tmp_path / "validation").iterdir()) == [6, 8, 10]
    for step in (6, 8, 10):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    (again,) = jax.device_get(loop.train(config, task, tiny_data_dir, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows


def test_members_of_other_seeds_take_turns_at_other_sites(tiny_data_dir):
    config = tiny("travelling", 1)
    config.population.seeds, config.population.form = 2, "mapped"
    split = data.open_split("tiny", "train", tiny_data_dir)
    task = make_task(config, split)
    with pytest.raises(UserError, match="members with different seeds are at different sites"):
        population.make(config, task, split)
    population.make(run_config.replaced(config, **{"method.fixed_order": True}), task, split)
    config.population.form = "auto"
    assert isinstance(population.make(config, task, split), population.ByTurns)
