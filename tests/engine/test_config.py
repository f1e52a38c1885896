import pytest

from equipoise.engine import config, validation
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError


def valid():
    run = Run()
    run.data.cohort, run.task.label = "tiny", "disease"
    return run


def test_round_trip():
    run = valid()
    run.data.shape = (4, 5, 6)
    run.model.args = {"features": (4, 8)}
    again = config.from_dict(config.to_dict(run))
    assert config.to_dict(again) == config.to_dict(run)
    assert again.data.shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("seed", 1, False),
        ("optimizer.learning_rate", 2.0, False),
        ("data.batch_size", 8, False),
        ("model.args", {"features": (1,)}, False),
        ("num_steps", 5, True),
        ("parallel.num_devices", 8, True),
        ("data.num_threads", 8, True),
        ("writers.tensorboard", False, True),
    ],
)
def test_fingerprint_changes_with_what_is_computed_only(field, value, same):
    changed = config.replaced(valid(), **{field: value})
    assert (config.fingerprint(changed) == config.fingerprint(valid())) is same


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.name", "adamm", "Did you mean 'adam'"),
        ("num_steps", 0, "num_steps=0 must be above 0"),
        ("data.cohort", "", "data.cohort is empty"),
        ("optimizer.schedule", "cosine", "needs --config.optimizer.decay_steps"),
        ("optimizer.weight_decay", 0.1, "choose adamw"),
        ("model.dtype", "float16", "is none of"),
    ],
)
def test_invalid_values_are_named(field, value, message):
    with pytest.raises(UserError, match=message):
        validation.validate(config.replaced(valid(), **{field: value}))


def test_a_field_of_another_version_is_named():
    values = config.to_dict(valid())
    values["optimizer"]["learning_rat"] = 1
    with pytest.raises(UserError, match="Did you mean 'learning_rate'"):
        config.from_dict(values)


def test_claim_refuses_another_run_and_allows_a_longer_one(tmp_path):
    config.claim(tmp_path, valid())
    config.claim(tmp_path, config.replaced(valid(), num_steps=5000))
    assert config.load(tmp_path).num_steps == 5000
    with pytest.raises(UserError, match="seed: 0 there, 4 asked"):
        config.claim(tmp_path, config.replaced(valid(), seed=4))
    with pytest.raises(UserError, match="holds no run"):
        config.load(tmp_path / "empty")
