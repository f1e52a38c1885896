"""Which checkpoint is meant, and that looking for it leaves nothing open."""

import json

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from equipoise.engine import config as run_config
from equipoise.engine import mesh
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.training import choosing
from equipoise.engine.training.checkpoint import Checkpoints
from equipoise.engine.update.state import TrainState
from tests import tiny_runs


class OneState:
    """What :func:`choosing.restore` asks of a machine."""

    runner = mesh.make_runner(Run())

    def state(self, step):
        return self.runner.replicate(TrainState(jnp.int32(step), {"kernel": jnp.ones(4)}, {}, ()))

    def abstract(self):
        return self.runner.abstract(self.state(0))


@pytest.fixture
def trained(tmp_path):
    """A folder with checkpoints of steps 2, 4 and 6, of which step 4 is the best."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(OneState().state(step), {}, None)
    rows = ((2, 0.6), (4, 0.8), (6, 0.7))
    lines = [f'{{"step": {step}, "split": "validation", "auroc": {auroc}}}' for step, auroc in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def managers(monkeypatch):
    """The checkpoint managers that are open."""
    is_open = set()
    init, close = ocp.CheckpointManager.__init__, ocp.CheckpointManager.close

    def opens(self, *args, **options):
        init(self, *args, **options)
        is_open.add(id(self))

    def closes(self):
        close(self)
        is_open.discard(id(self))

    monkeypatch.setattr(ocp.CheckpointManager, "__init__", opens)
    monkeypatch.setattr(ocp.CheckpointManager, "close", closes)
    return is_open


def test_no_manager_stays_open(trained, managers):
    config = Run()
    assert choosing.choose_steps(trained, config, "best") == [4]
    assert choosing.choose_steps(trained, config, "last") == [6]
    assert choosing.choose_steps(trained, config, "all") == [2, 4, 6]
    assert choosing.choose_steps(trained, config, "2") == [2]
    assert int(choosing.restore(OneState(), trained, 4).step) == 4
    with pytest.raises(UserError, match="give best, last, all or one of 2, 4, 6"):
        choosing.choose_steps(trained, config, "3")
    with pytest.raises(UserError, match="step 5 does not read"):
        choosing.restore(OneState(), trained, 5)
    assert not managers


def test_a_folder_without_checkpoints_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="train it first"):
        choosing.choose_steps(tmp_path, Run(), "last")


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
