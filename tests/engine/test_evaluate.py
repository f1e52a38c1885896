"""Scoring and probing a run from a notebook: library calls, no command line."""

import pytest

from equipoise import tasks
from equipoise.engine import evaluate
from equipoise.engine.errors import UserError
from equipoise.engine.evaluate import SaliencyMaps
from equipoise.engine.explain import probes
from equipoise.engine.metrics.table.table import read_table
from equipoise.engine.rundir import RunFolder


def test_a_variant_stands_beside_the_plain_table_and_differs_in_the_scores_alone(tiny_run, tiny_data_dir):
    _, workdir = tiny_run
    seen = []
    (plain,) = evaluate.score_run(
        workdir, tasks.make_task, tiny_data_dir, step="last", progress=lambda *x: seen.append(x)
    )
    (other,) = evaluate.score_run(
        str(workdir), tasks.make_task, str(tiny_data_dir), step="last", variant="dim", before="rescale(factor=-1.0)",
    )  # fmt: skip
    assert seen[-1] == ("tiny test", plain.num_images, plain.num_images)
    assert plain.path.parent == other.path.parent and other.path.name == f"{plain.step:08d}--dim.parquet"
    first, second = read_table(plain.path).frame, read_table(other.path).frame
    assert (first["score"] != second["score"]).any()
    apart = {name for name in first if not first[name].equals(second[name])}
    assert apart <= {"score"}
    run = RunFolder(workdir)
    assert plain.step in run.steps("tiny", "test") and run.steps("tiny", "test", "dim") == [plain.step]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "dim"}, "operations that change the images"),
        ({"before": "minmax"}, "has a name"),
        ({"variant": "dim", "before": "minmax", "maps": SaliencyMaps()}, "saliency"),
        ({"step": "5"}, "give best, last, all or one of"),
        ({"cohorts": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_be_scored_is_refused(tiny_run, tiny_data_dir, settings, message):
    with pytest.raises(UserError, match=message):
        evaluate.score_run(tiny_run[1], tasks.make_task, tiny_data_dir, **settings)


def test_a_run_is_probed_by_one_call(tiny_run, tiny_data_dir):
    _, workdir = tiny_run
    (result,) = probes.probe_run(
        workdir,
        tasks.make_task,
        tiny_data_dir,
        labels=["disease", "sex"],
        blocks=["pooled"],
        num_folds=2,
        control=1,
    )
    assert result.path == RunFolder(workdir).probes("tiny", "test", result.step) and result.path.exists()
    assert [(p.block, p.label) for p in result.probes[0]] == [("pooled", "disease"), ("pooled", "sex")]
    assert not RunFolder(workdir).features("tiny", "test", result.step).exists()
    with pytest.raises(UserError, match="Did you mean 'disease'"):
        probes.probe_run(workdir, tasks.make_task, tiny_data_dir, labels=["diseas"])
