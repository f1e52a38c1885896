"""Fair error-bound scaling against plain loops, and the direction in which each form pulls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine import config as run_config
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.methods import febs
from equipoise.engine.update import losses
from equipoise.tasks.kinds.classification import Classification
from equipoise.tasks.kinds.segmentation import Segmentation

CLASSES, GROUPS, E = 3, 3, 1e-5
STRUCTURES = {"rim": (1,), "cup": (2,)}


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


class Levels:
    levels = ("Asian", "Black", "White")


def method(name, **settings):
    config = Run()
    config.task = run_config.Task(kind="segmentation", label="mask", dice_weight=0.8, loss_grid="image")
    config.method = run_config.Method(name=name, group="race", **settings)
    kind = {"febs_released": febs.ReleasedFEBS, "febs_intent": febs.IntendedFEBS}[name]
    return kind(config, groups=Levels())


def batch(group, seed=0, size=6):
    """Masks, and logits that are better for groups with lower numbers."""
    generator = np.random.default_rng(seed)
    mask = generator.integers(0, CLASSES, (len(group), size, size))
    skill = np.array([4.0, 2.0, 0.5, 1.0])[np.array(group)]
    logits = generator.normal(0, 1, (len(group), size, size, CLASSES))
    logits += skill[:, None, None, None] * np.eye(CLASSES)[mask]
    made = {"mask": mask.astype(np.uint8), "group": np.array(group), "weight": np.ones(len(group))}
    return jnp.asarray(logits), {k: jnp.asarray(v) for k, v in made.items()}


def plain_dice(probabilities, truth):
    """[k] soft Dice losses over all pixels of all given images."""
    overlap, squares = (
        (2 * probabilities * truth).sum((0, 1, 2)),
        (probabilities**2 + truth**2).sum((0, 1, 2)),
    )
    return 1 - (overlap + E) / (squares + E)


def plain_weights(probabilities, truth, group, gamma, absent):
    """The weights group by group, as in the released code; -1 is the key of images of unknown group."""
    loss = {
        g: float(plain_dice(probabilities[group == g], truth[group == g]).sum())
        for g in set(group.tolist()) - {-1}
    }
    known = [loss.get(g, 0.0) for g in range(GROUPS)] if absent == "collapse" else list(loss.values())
    return {g: np.tanh((min(known) / value) ** gamma) for g, value in loss.items()} | {-1: np.tanh(1.0)}


def plain_released(logits, made, gamma, absent, weights=None):
    probabilities, truth = jax.nn.softmax(logits), jnp.eye(CLASSES)[made["mask"]]
    group = np.asarray(made["group"])
    weights = weights or plain_weights(np.asarray(probabilities), np.asarray(truth), group, gamma, absent)
    scale = jnp.array([weights[g] for g in group.tolist()])[:, None, None, None]
    return plain_dice(scale * probabilities, truth).mean()


def plain_intent(logits, made, gamma):
    probabilities, truth = jax.nn.softmax(logits), jnp.eye(CLASSES)[made["mask"]]
    group = np.asarray(made["group"])
    losses_ = {
        g: plain_dice(probabilities[group == g], truth[group == g]).mean()
        for g in sorted(set(group.tolist()) - {-1})
    }
    bound = {g: float(jax.lax.stop_gradient(value)) for g, value in losses_.items()}
    mean, known = np.mean(list(bound.values())), (group >= 0).sum()
    return sum(
        (group == g).sum() / known * (bound[g] / mean) ** gamma * value for g, value in losses_.items()
    )


def task_loss(task, made):
    """The mean loss of the batch without cross-entropy, as a function of the logits."""

    def loss(logits):
        whole = task.batch_sums(jax.lax.stop_gradient(logits), made)
        each = task.loss(logits, made, whole)
        crossed = losses.softmax_cross_entropy(logits, made["mask"].astype(jnp.int32)).mean((1, 2))
        weight = task.settings.dice_weight
        return ((each - (1 - weight) * crossed) / weight).mean()

    return loss


def made_task(name, phase="all", **settings):
    found = method(name, **settings)
    return found.adapt(Segmentation(("background", "rim", "cup"), STRUCTURES, {}, found.config.task), phase)


GROUPINGS = {
    "all": [0, 1, 2, 2, 1, 0, 0],
    "unknown": [0, 1, 2, -1, 1, -1],
    "one lacks": [0, 0, 2, 2],
    "one": [1, 1],
}


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("absent", ["skip", "collapse"])
@pytest.mark.parametrize("which", GROUPINGS)
def test_the_released_form_and_its_gradient_equal_a_loop(which, absent, gamma):
    logits, made = batch(GROUPINGS[which])
    loss = task_loss(made_task("febs_released", gamma=gamma, absent=absent), made)
    weights = plain_weights(
        np.asarray(jax.nn.softmax(logits)), np.eye(CLASSES)[np.asarray(made["mask"])], np.asarray(made["group"]), gamma, absent
    )  # fmt: skip
    value, slope = jax.value_and_grad(loss)(logits)
    peer, wanted = jax.value_and_grad(plain_released)(logits, made, gamma, absent, weights)
    np.testing.assert_allclose(value, peer, rtol=1e-10)
    np.testing.assert_allclose(slope, wanted, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("which", GROUPINGS)
def test_the_intended_form_and_its_gradient_equal_a_loop(which, gamma):
    logits, made = batch(GROUPINGS[which])
    value, slope = jax.value_and_grad(task_loss(made_task("febs_intent", gamma=gamma), made))(logits)
    peer, wanted = jax.value_and_grad(plain_intent)(logits, made, gamma)
    np.testing.assert_allclose(value, peer, rtol=1e-10)
    np.testing.assert_allclose(slope, wanted, atol=1e-12)


def slopes(name, made, logits, **settings):
    slope = jax.grad(task_loss(made_task(name, **settings), made))(logits)
    return [float(jnp.linalg.norm(slope[np.asarray(made["group"]) == g])) for g in range(GROUPS)]


def test_the_released_form_learns_the_hard_group_less_and_the_intended_form_more():
    """Group 2 is the hardest and group 0 the easiest; gradients are compared with those of Dice of the whole batch."""
    logits, made = batch([0] * 4 + [1] * 4 + [2] * 4, size=16)
    plain = Segmentation(
        ("background", "rim", "cup"), STRUCTURES, {}, run_config.Task(dice_weight=0.8, dice_over="batch", loss_grid="image")
    )  # fmt: skip
    usual = jax.grad(task_loss(plain, made))(logits)
    usual = [float(jnp.linalg.norm(usual[np.asarray(made["group"]) == g])) for g in range(GROUPS)]
    released = np.divide(slopes("febs_released", made, logits), usual)
    intended = np.divide(slopes("febs_intent", made, logits), usual)
    assert released[0] > released[1] > released[2] and released[2] < 0.6
    assert intended[0] < intended[1] < intended[2]


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        ((0.142, 0.140, 0.218), (0.756, 0.762, 0.568)),
        ((0.049, 0.140, 0.318), (0.762, 0.336, 0.153)),
        ((0.013, 0.013, 0.139), (0.762, 0.762, 0.093)),
    ],
)
def test_weights_of_known_losses(loss, weights):
    found = febs.group_weights(jnp.array(loss), jnp.ones(3, bool), 1.0, "skip")
    np.testing.assert_allclose(found, weights, atol=2e-3)


def test_an_absent_group_stops_dice_where_asked_and_not_otherwise():
    logits, made = batch(GROUPINGS["one lacks"])
    value, slope = jax.value_and_grad(task_loss(made_task("febs_released", absent="collapse"), made))(logits)
    assert value == pytest.approx(1, abs=1e-5) and float(abs(slope).max()) < 1e-12
    assert float(abs(jax.grad(task_loss(made_task("febs_released"), made))(logits)).max()) > 1e-4


def test_a_perfect_model_keeps_a_floor_and_no_nan():
    """Probabilities of 0 and 1 scaled by w = tanh(1) have a loss of 1 - 2w / (w^2 + 1), 0.036 in each class."""
    mask = np.arange(36).reshape(1, 6, 6) % CLASSES
    made = {"mask": jnp.asarray(mask, jnp.uint8), "group": jnp.array([1]), "weight": jnp.ones(1)}
    logits = 1e4 * jnp.eye(CLASSES)[mask]
    w = np.tanh(1)
    value, slope = jax.value_and_grad(task_loss(made_task("febs_released"), made))(logits)
    assert value == pytest.approx(1 - 2 * w / (w**2 + 1), abs=1e-6)
    assert np.isfinite(slope).all()
    value, slope = jax.value_and_grad(task_loss(made_task("febs_intent"), made))(logits)
    assert value == pytest.approx(0, abs=1e-6) and np.isfinite(slope).all()


def test_before_its_start_the_task_is_as_under_erm():
    found = method("febs_intent", pretrain_steps=10)
    assert [found.phase(step) for step in (0, 9, 10)] == ["erm", "erm", "all"]
    assert made_task("febs_intent", phase="erm").dice is None


def test_what_has_no_dice_is_refused():
    with pytest.raises(UserError, match="segmentation"):
        method("febs_intent").adapt(Classification("disease", ("no", "yes"), "yes"), "all")
    other = method("febs_released")
    other.config.task.dice_weight = 0.0
    with pytest.raises(UserError, match="dice_weight=0"):
        other.adapt(Segmentation(("background", "cup"), {"cup": (1,)}, {}, other.config.task), "all")
