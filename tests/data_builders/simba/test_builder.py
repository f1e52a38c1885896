"""Built cohorts: what scenarios share, what a counterfactual flips, what is recorded, what is refused."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from equipoise.data_builders.base.catalogue import find_builder
from equipoise.data_builders.simba.builder import Simba
from equipoise.data_builders.simba.config import SCENARIOS
from equipoise.data_builders.simba.velocity import Modes
from equipoise.engine import data
from equipoise.engine.explain import regions
from equipoise.engine.transforms.masks import decode_mask
from tests.data_builders.simba.test_anatomy import write_pair

SMALL = {"resolution": 8, "subjects": 60}
EFFECTS = {
    "near": ["bias"],
    "far": ["bias"],
    "intensity": ["bias"],
    "both": ["bias"],
    "multi": ["bias", "intensity_bias"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every scenario and three counterfactuals, 60 subjects at 8 mm."""
    folder = tmp_path_factory.mktemp("simba")
    configs = [Simba.configure(f"{scenario}_4mm", **SMALL) for scenario in SCENARIOS]
    configs += [Simba.configure("near_4mm_counterfactual", **SMALL)]
    configs += [Simba.configure("multi_4mm_counterfactual", flip="intensity_bias", **SMALL)]
    configs += [Simba.configure("sites_4mm_counterfactual", **SMALL)]
    for config in configs:
        Simba(data_dir=folder, config=config).download_and_prepare()
    return folder


def examples(folder, config, split="test"):
    opened = data.open_split(f"simba/{config}_subjects60", split, folder)
    rows = [opened.source[i] for i in range(len(opened))]
    return {e["subject_id"]: e for e in rows}, opened


def difference(a, b):
    return np.abs(a["image"].astype(int) - b["image"]).max()


@pytest.mark.parametrize("scenario", EFFECTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_scenarios_share_every_draw_and_differ_where_bias_is_rendered(folder, scenario, split):
    none, _ = examples(folder, "none_8mm", split)
    biased, opened = examples(folder, f"{scenario}_8mm", split)
    assert list(none) == list(biased)  # the same records in the same order, so the same batches
    assert set(opened.vocabulary("attributes")) == {*EFFECTS[scenario], "bias", "disease_score", "bias_score"}
    for subject, example in none.items():
        other = biased[subject]
        assert example["labels"] == other["labels"]
        for attribute, value in example["attributes"].items():
            np.testing.assert_equal(other["attributes"][attribute], value)
        shown = any(other["attributes"][attribute] == 1 for attribute in EFFECTS[scenario])
        assert (difference(example, other) > 0) == shown


def test_multi_holds_the_images_of_its_parts(folder):
    """Whoever carries one bias only looks as in the scenario of that bias alone."""
    multi, near, both, none = (
        examples(folder, f"{s}_8mm", "train")[0] for s in ("multi", "near", "both", "none")
    )
    kinds = set()
    for subject, example in multi.items():
        kind = tuple(example["attributes"][a] == 1 for a in ("bias", "intensity_bias"))
        kinds.add(kind)
        if kind != (False, True):
            alone = {(False, False): none, (True, False): near, (True, True): both}[kind]
            assert difference(example, alone[subject]) == 0
    assert len(kinds) == 4


def test_the_counterfactual_flips_the_bias_of_every_test_subject(folder):
    near, _ = examples(folder, "near_8mm")
    none, _ = examples(folder, "none_8mm")
    flipped, opened = examples(folder, "near_8mm_counterfactual")
    assert set(opened.builder.info.splits) == {"test"}
    assert set(flipped) == set(near)
    for subject, example in flipped.items():
        assert {example["attributes"]["bias"], near[subject]["attributes"]["bias"]} == {0, 1}
        assert difference(example, near[subject]) > 0
        unbiased = example if example["attributes"]["bias"] == 0 else near[subject]
        assert difference(unbiased, none[subject]) == 0


def test_each_bias_of_multi_can_be_flipped_alone(folder):
    multi, _ = examples(folder, "multi_8mm")
    flipped, _ = examples(folder, "multi_8mm_counterfactual_flipintensity_bias")
    assert set(flipped) == set(multi)
    for subject, example in flipped.items():
        before, after = multi[subject]["attributes"], example["attributes"]
        assert before["bias"] == after["bias"] and {before["intensity_bias"], after["intensity_bias"]} == {
            0,
            1,
        }
        assert difference(example, multi[subject]) > 5
    everything = Simba.configure("multi_4mm_counterfactual", flip="all", **SMALL)
    assert everything.flipped == ("bias", "intensity_bias")
    assert Simba.configure("multi_4mm_counterfactual").flipped == ("bias",)


def test_the_counterfactual_of_sites_shows_everyone_as_the_first_scanner_does(folder):
    sites, opened = examples(folder, "sites_8mm")
    flipped, _ = examples(folder, "sites_8mm_counterfactual")
    assert set(flipped) == set(sites) and len(sites) == 13
    levels = opened.vocabulary("attributes")
    assert sorted(levels) == ["disease_score", "scanner", "sex", "site", "vendor"]
    assert [len(levels[a]) for a in ("scanner", "sex", "site", "vendor")] == [24, 3, 84, 4]
    for subject, example in flipped.items():
        before, after = sites[subject]["attributes"], example["attributes"]
        assert (
            levels["scanner"][after["scanner"]] == "scanner_01"
            and levels["vendor"][after["vendor"]] == "vendor_a"
        )
        assert all(before[a] == after[a] for a in ("site", "sex", "disease_score"))
        assert (difference(example, sites[subject]) > 0) == (before["scanner"] != after["scanner"])
    assert opened.metadata["region_names"] == {"disease": "right insula"}
    assert opened.metadata["design"]["subjects"] == 60 and "bias_in_disease" not in opened.metadata["design"]


def test_metadata_tells_an_analysis_what_was_planted(folder):
    _, opened = examples(folder, "near_8mm")
    assert opened.metadata["design"]["bias_in_disease"] == 0.7
    assert opened.metadata["design"]["template"] == "MNI152"
    assert opened.metadata["region_names"] == {"disease": "right insula", "bias": "right putamen"}
    assert decode_mask(opened.metadata["regions"]["disease"]).shape == opened.image_shape[:-1]
    atlas = regions.read(opened.metadata)
    assert len(atlas.names) == 83 and np.setdiff1d(atlas.labels, [0, *atlas.names]).size == 0
    for what, name in opened.metadata["region_names"].items():
        assert atlas.title(atlas.marked[what]) == name
        mask = decode_mask(opened.metadata["regions"][what])
        np.testing.assert_array_equal(atlas.labels == atlas.marked[what], mask)
    assert pathlib.Path(opened.builder.data_path, "metadata.json").stat().st_size < 10_000
    assert pathlib.Path(opened.builder.data_path, "cohort_report.json").exists()


def test_a_users_own_brain_becomes_a_cohort_without_its_paths(tmp_path):
    source = tmp_path / "secret_place"
    source.mkdir()
    template, labels = map(str, write_pair(source))
    builder = find_builder(
        "simba/multi_2mm", data_dir=tmp_path / "data", subjects=24, template=template, labels=labels,
        disease_region=21, bias_region=34, effect_width_mm=3, disease_mm=1, bias_mm=1, variability="shared_scalar",
    )  # fmt: skip
    builder.download_and_prepare()
    opened = data.open_split(f"simba/{builder.builder_config.name}", "train", tmp_path / "data")
    assert opened.image_shape == (24, 28, 20, 1)
    assert opened.metadata["region_names"] == {"disease": "label 21", "bias": "label 34"}
    atlas = regions.read(opened.metadata)
    assert atlas.marked == {"disease": 21, "bias": 34} and not atlas.names and (atlas.labels == 21).any()
    example = opened.source[0]
    assert example["image"].max() > 200 and np.isfinite(example["attributes"]["subject_score"])
    np.testing.assert_array_equal(example["spacing"], [2, 2, 2])
    for path in pathlib.Path(builder.data_path).rglob("*"):
        assert b"secret_place" not in path.read_bytes()


class Folding(Simba):
    """Simulates a model whose disease effect folds space at large scores."""

    def velocity_model(self):
        class Model:
            inner = super(Folding, self).velocity_model()

            def subject(self, shape, spacing):
                return self.inner.subject(shape, spacing)

            def effect(self, region, spacing):
                field = np.zeros((3, *region.shape), np.float32)
                field[0, 8:11] = 20.0  # too fast for the squarings, at all but small scores
                return Modes(np.zeros_like(field), field[None])

        return Model()


def test_a_scan_that_folds_is_refused_and_listed(tmp_path):
    builder = Folding(data_dir=tmp_path, config=Simba.configure("none_4mm", **SMALL))
    builder.download_and_prepare()
    report = json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())
    assert 0 < report["skipped_total"] < 60
    assert all("deformation folds (least Jacobian determinant -" in s["reason"] for s in report["skipped"])
    kept = sum(counts["scans"] for counts in report["counts"].values())
    assert kept + report["skipped_total"] == 60


def test_every_listed_configuration_says_what_it_is():
    names = {c.name for c in Simba.BUILDER_CONFIGS}
    assert {
        "near_4mm",
        "far_1mm",
        "none_2mm",
        "multi_4mm_counterfactual",
        "intensity_3mm",
        "both_4mm",
        "sites_8mm",
        "sites_4mm_counterfactual",
    } <= names
    assert "none_4mm_counterfactual" not in names
    assert all(dataclasses.is_dataclass(c) for c in Simba.BUILDER_CONFIGS)
