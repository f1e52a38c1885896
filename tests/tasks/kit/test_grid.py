import pathlib

import pytest

from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.tasks.kit import grid


def load_run(name):
    run = Run()
    run.data.cohort, run.task.label = f"{name}/own", "disease"
    return run


def cells(*texts, config="near"):
    axes = grid.read_axes(texts)
    return grid.cells(axes, config, load_run(config) if config else None, ["--config.num_steps=4"], load_run)


def test_every_combination_is_a_cell_with_a_folder_that_says_what_it_is():
    flags = cells("seed=0..1", "config.optimizer.learning_rate=1e-3,1e-4")
    assert list(flags) == [f"seed={s},learning_rate={r}" for s in (0, 1) for r in ("1e-3", "1e-4")]
    assert flags["seed=1,learning_rate=1e-4"] == (
        "--config=near",
        "--config.num_steps=4",
        "--config.seed=1",
        "--config.optimizer.learning_rate=1e-4",
    )
    assert list(grid.read_axes(["model.args.features=(4,8),(8,16)"]).values()) == [["(4,8)", "(8,16)"]]


@pytest.mark.parametrize(
    ("texts", "config", "message"),
    [
        ((), "near", "no --grid"),
        (("seed=1", "seed=2"), "near", "each field once"),
        (("sed=1",), "near", "Did you mean 'seed'"),
        (("seed=1",), None, "no --config"),
        (("optimizer.name=adm",), "near", "Did you mean 'adam'"),
        (("data.preprocess=a|b,a/b",), "near", "share the folder"),
    ],
)
def test_a_grid_that_cannot_run_is_refused(texts, config, message):
    with pytest.raises(UserError, match=message):
        cells(*texts, config=config)


def test_the_plan_scores_every_cell_and_ends_with_a_report_for_each_set_of_images():
    folder = pathlib.Path("/sweep")
    runs, (report,) = grid.plan(folder, cells("config=none,near", config=None), [], load_run)
    assert [[stage.command[0] for stage in job.stages] for job in runs] == [["train", "evaluate"]] * 2
    assert [stage.command[2:4] for stage in report.stages] == [
        (f"--cohort={name}/own", "--split=test") for name in ("none", "near")
    ]
    members = grid.plan(folder, cells("population.seeds=2"), ["a/b:validation"], load_run)
    (stage,) = members[1][0].stages
    assert stage.command[1:4] == ("--runs=/sweep/runs/*/member_*", "--cohort=a/b", "--split=validation")
    assert len(grid.plan(folder, cells("seed=0..4"), [], load_run, with_report=False)) == 1
