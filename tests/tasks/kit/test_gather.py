import dataclasses
import json
import pathlib

import numpy as np
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.rundir import RunFolder
from equipoise.tasks.kit import gather, pages


@dataclasses.dataclass(frozen=True)
class Run:
    seed: int
    scores: dict


def runs(*values):
    """A run of each seed that is right about so many of ten patients."""
    right = [np.arange(10) < value for value in values]
    return [Run(seed, {"accuracy": intervals.proportion(x, np.arange(10))}) for seed, x in enumerate(right)]


def test_a_study_reads_members_and_single_runs_and_names_what_it_leaves_out(tmp_path):
    for name in ("near-erm/member_000", "near-erm/member_001", "far-erm"):
        (tmp_path / "runs" / name).mkdir(parents=True)

    def read(run: pathlib.Path) -> str:
        if run.name == "member_001":
            raise UserError(f"{run} is not done")
        return gather.name_of_runs(run, tmp_path)

    found, left_out = gather.read_each(gather.run_folders(tmp_path), tmp_path, read)
    assert found == ["far-erm", "near-erm"]
    assert left_out == [("near-erm/member_001", ".../runs/near-erm/member_001 is not done")]
    (section,) = pages.left_out(left_out)
    assert [cell.text for cell in section.tables[0].rows[0]] == list(left_out[0])
    assert pages.left_out([]) == []


def test_scores_over_seeds_and_differences_paired_by_seed():
    first, second = runs(8, 9), runs(7, 7, 1)
    assert gather.over(first, "accuracy").estimate.value == pytest.approx(0.85)
    assert gather.over(first, "auroc") is None
    assert gather.against(first, second, "accuracy").estimate.value == pytest.approx(0.15)
    assert gather.against(first, second[2:], "accuracy") is None


def test_probes_are_read_by_block_and_label(tmp_path):
    assert gather.probe_rows(tmp_path, "a/b", "test", 3) == {}
    path = RunFolder(tmp_path).probes("a/b", "test", 3)
    path.parent.mkdir(parents=True)
    row = {"block": "pooled", "label": "sex", "chance": 0.5}
    path.write_text(json.dumps({"probes": [row]}))
    assert gather.probe_rows(tmp_path, "a/b", "test", 3) == {"pooled": {"sex": row}}
