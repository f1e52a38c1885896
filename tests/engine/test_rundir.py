import pathlib

import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.rundir import RunFolder, cohort_of_folder, folder_of_cohort

RUN = RunFolder(pathlib.Path("/run"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (RUN.config, "config.json"),
        (RUN.checkpoints, "checkpoints"),
        (RUN.damaged, "damaged"),
        (RUN.metrics, "metrics.jsonl"),
        (RUN.timing, "timing.jsonl"),
        (RUN.tensorboard, "tensorboard"),
        (RUN.validation(40), "validation/00000040.parquet"),
        (RUN.evaluation("simba/near_4mm", "test", 600), "evaluations/simba--near_4mm/test/00000600.parquet"),
        (RUN.evaluation("tiny", "test", 600, "corrupted"), "evaluations/tiny/test/00000600--corrupted.parquet"),
        (RUN.masks("tiny", "test", 600), "evaluations/tiny/test/00000600.masks.parquet"),
        (RUN.masks("tiny", "test", 600, "low-dose"), "evaluations/tiny/test/00000600--low-dose.masks.parquet"),
        (RUN.saliency("simba/near_4mm", 600), "saliency/simba--near_4mm/00000600.npz"),
        (RUN.probes("a/b", "test", 7), "probes/a--b/test/00000007.json"),
        (RUN.features("a/b", "test", 7), "features/a--b/test/00000007"),
        (RUN.report, "report"),
        (RUN.logs, "logs"),
        (RUN.member(3), "member_003"),
    ],
)  # fmt: skip
def test_paths_are_where_they_have_always_been(path, text):
    assert path == pathlib.Path("/run") / text


@pytest.mark.parametrize("cohort", ["tiny", "simba/near_4mm", "table/my--own", "a_b/c-d"])
def test_a_cohort_is_read_back_from_its_folder(cohort):
    assert cohort_of_folder(folder_of_cohort(cohort)) == cohort


@pytest.mark.parametrize("variant", ["a--b", "a/b", "a.b", "-a", "a-", " "])
def test_a_variant_that_no_file_can_carry_is_refused(variant):
    with pytest.raises(UserError, match="variant"):
        RUN.evaluation("tiny", "test", 1, variant)


def test_what_is_there_is_found_and_variants_and_masks_are_not_taken_for_plain_tables(tmp_path):
    run = RunFolder(tmp_path)
    assert run.evaluations() == run.members() == [] and run.validations() == {} and not run.is_run
    with pytest.raises(UserError, match="has not been evaluated"):
        run.newest("a/b", "test")
    made = [
        run.evaluation("a/b", "test", 2), run.evaluation("a/b", "test", 10), run.masks("a/b", "test", 10),
        run.evaluation("a/b", "test", 20, "corrupted"), run.masks("a/b", "test", 20, "corrupted"),
        run.evaluation("a/b", "validation", 30), run.evaluation("a", "test", 10), run.validation(5), run.config,
        run.member(1) / "x", run.member(0) / "x",
    ]  # fmt: skip
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert run.is_run and run.members() == [run.member(0), run.member(1)]
    assert run.steps("a/b", "test") == [2, 10] and run.steps("a/b", "test", "corrupted") == [20]
    assert run.steps("a/b", "train") == [] and run.steps("a", "test") == [10]
    newest = run.newest("a/b", "test")
    assert (newest.step, newest.path) == (10, made[1])
    assert [(t.cohort, t.split, t.variant) for t in run.evaluations(step=10)] == [
        ("a", "test", ""),
        ("a/b", "test", ""),
    ]
    assert [t.variant for t in run.evaluations("a/b", "test", variant=None)] == ["", "", "corrupted"]
    assert run.validations() == {5: run.validation(5)}
