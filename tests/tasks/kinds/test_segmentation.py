"""Segmentation through the engine: losses against PyTorch, values against MONAI, and what a run of masks must keep."""

import dataclasses
import json
import types

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from equipoise.engine import config as run_config
from equipoise.engine import data, methods, validation
from equipoise.engine import predicted_masks as segments
from equipoise.engine.errors import UserError
from equipoise.engine.explain import worst_cases
from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.metrics.table.table import read_table
from equipoise.engine.report.single import overlays
from equipoise.engine.training import choosing, loop
from equipoise.engine.training.checkpoint import checksums
from equipoise.engine.training.machine import Machine
from equipoise.tasks import make_task
from equipoise.tasks.kinds.segmentation import Segmentation
from tests import tiny_runs

STRUCTURES = {"rim": (1,), "cup": (2,), "disc": (1, 2)}


def task(**settings):
    return Segmentation(("background", "rim", "cup"), STRUCTURES, {}, run_config.Task(**settings))


def config(**changes):
    return run_config.replaced(tiny_runs.masks(), **changes)


@pytest.fixture(scope="module")
def trained(masks_data_dir, tmp_path_factory):
    """(configuration, folder) of a finished run."""
    run, folder = config(), tmp_path_factory.mktemp("masks_run") / "run"
    split = data.open_split("tiny_masks", "train", masks_data_dir)
    loop.train(run, make_task(run, split), masks_data_dir, folder)
    return run, folder


@pytest.fixture(scope="module")
def scorer(trained, masks_data_dir):
    """(machine, final state, test split)."""
    run, folder = trained
    split = data.open_split("tiny_masks", "train", masks_data_dir)
    machine = Machine(run, make_task(run, split), split)
    test = data.open_split("tiny_masks", "test", masks_data_dir)
    return machine, choosing.restore(machine, folder, 8), test


@pytest.mark.parametrize("grid", ["output", "image"])
@pytest.mark.parametrize("over", ["image", "batch"])
def test_the_loss_is_that_of_a_torch_twin(rng, grid, over):
    """SAMed's 0.2 cross-entropy + 0.8 Dice, on a grid of a quarter of the image's."""
    torch = pytest.importorskip("torch")
    ours = task(dice_weight=0.8, dice_over=over, loss_grid=grid)
    logits, mask = (
        rng.normal(size=(3, 4, 4, 3)).astype(np.float32),
        rng.integers(0, 3, (3, 16, 16)).astype(np.uint8),
    )
    batch = {"mask": jnp.asarray(mask), "weight": jnp.ones(3)}
    each = ours.loss(jnp.asarray(logits), batch, ours.batch_sums(jnp.asarray(logits), batch))
    z, y = torch.from_numpy(np.moveaxis(logits, -1, 1)), torch.from_numpy(mask.astype(np.int64))
    if grid == "image":
        z = torch.nn.functional.interpolate(z, (16, 16), mode="bilinear", align_corners=False)
    else:
        index = torch.round(torch.arange(4) * 15 / 3).long()
        y = y[:, index][:, :, index]
    p, t = torch.softmax(z, 1), torch.nn.functional.one_hot(y, 3).movedim(-1, 1)
    axes = (0, 2, 3) if over == "batch" else (2, 3)
    dice = 1 - (2 * (p * t).sum(axes) + 1e-5) / ((p**2).sum(axes) + (t**2).sum(axes) + 1e-5)
    twin = 0.2 * torch.nn.functional.cross_entropy(z, y) + 0.8 * dice.mean()
    assert float(each.mean()) == pytest.approx(float(twin), rel=1e-5)
    alone = task(dice_weight=0.8, loss_grid=grid).loss(jnp.asarray(logits), batch)
    np.testing.assert_allclose(
        ours.loss(jnp.asarray(logits), batch), alone, rtol=1e-6
    )  # in evaluation, of each image


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(UserError, match="wants logits"):
        task().loss(jnp.zeros((2, 3)), {"mask": jnp.zeros((2, 8, 8), jnp.uint8)})


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI to itself
def test_values_are_those_that_monai_computes_from_the_stored_masks(trained, scorer, tmp_path):
    monai = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    machine, state, split = scorer
    frame, _ = machine.predict(state, split)
    frame, masks = segments.split_off(frame)
    segments.write(tmp_path / "t.parquet", masks)
    stored = segments.Predicted(tmp_path / "t.parquet")
    assert list(stored) == list(frame["scan_id"]) == list(split.columns["scan_id"])
    compared = 0
    for row, (_, found) in enumerate(frame.iterrows()):
        example = split.source[row]
        for name, codes in STRUCTURES.items():
            p, r = (np.isin(m, codes) for m in (stored[found["scan_id"]], example["mask"]))
            both = p.sum() + r.sum()
            assert found[f"dice_{name}"] == pytest.approx(
                2 * (p & r).sum() / both if both else np.nan, nan_ok=True
            )
            assert found[f"volume_error_{name}"] == pytest.approx(
                (p.sum() - int(r.sum())) * np.prod(example["spacing"])
            )
            if not (p.any() and r.any()):
                assert np.isnan(found[f"hd95_{name}"]) and np.isnan(found[f"assd_{name}"])
                continue
            given = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (p, r)]
            spacing = {"spacing": example["spacing"].tolist(), "include_background": True}
            hd95 = float(monai.compute_hausdorff_distance(*given, percentile=95, **spacing))
            assert found[f"hd95_{name}"] == pytest.approx(hd95, rel=1e-5)
            iou = float(monai.compute_iou(*given, include_background=True))
            assert found[f"iou_{name}"] == pytest.approx(iou, rel=1e-5)
            compared += 1
    assert compared > 10


def test_ratios_by_hand():
    mask = np.zeros((8, 8), int)
    mask[1:7, 2:6], mask[3:5, 3:5] = 1, 2
    vertical = segmentation.Ratio("extent", "cup", "disc", axis=0)
    area = segmentation.Ratio("area", "cup", "disc")
    assert vertical.measure(mask, STRUCTURES) == 2 / 6
    assert segmentation.Ratio("extent", "cup", "disc", axis=1).measure(mask, STRUCTURES) == 2 / 4
    assert area.measure(mask, STRUCTURES) == 4 / 24
    assert vertical.measure(np.where(mask == 2, 1, mask), STRUCTURES) == 0
    found = segmentation.evaluate_ratio("v", vertical, np.zeros_like(mask), mask, STRUCTURES)
    assert found["reference_v"] == 2 / 6 and np.isnan([found["predicted_v"], found["ratio_error_v"]]).all()
    with pytest.raises(UserError, match="choose area or extent"):
        segmentation.Ratio("length", "cup", "disc")


def test_an_image_without_structures_has_no_value_and_is_in_the_table(scorer):
    machine, state, split = scorer
    frame, _ = machine.predict(state, split)
    empty = [row for row in range(len(split)) if not split.source[row]["mask"].any()]
    assert empty and frame.loc[empty, "reference_area_cup_to_disc"].isna().all()
    missed = frame.loc[empty, "dice_disc"]
    assert set(missed.fillna(-1)) <= {-1.0, 0.0}  # undefined, or 0 where something was predicted


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_table_does_not_depend_on_batches(scorer, size):
    machine, state, split = scorer
    whole, loss = machine.predict(state, split)
    other = Machine(
        run_config.replaced(machine.config, **{"data.eval_batch_size": size}), machine.task, machine.training
    )
    again, same = other.predict(state, split)
    assert sorted(again["scan_id"]) == sorted(split.columns["scan_id"])
    pd.testing.assert_frame_equal(again, whole)
    assert same == pytest.approx(loss, rel=1e-6)


def test_a_run_that_stopped_is_the_run_that_never_did(trained, masks_data_dir, tmp_path):
    run, whole = trained
    split = data.open_split("tiny_masks", "train", masks_data_dir)
    for steps in (4, 8):
        loop.train(
            dataclasses.replace(run, num_steps=steps), make_task(run, split), masks_data_dir, tmp_path / "run"
        )
    rows = (whole / "metrics.jsonl").read_text()
    resumed = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r for r in resumed if (r["step"], r["split"]) != (4, "train")][-1] == json.loads(
        rows.splitlines()[-1]
    )
    machine = Machine(run, make_task(run, split), split)
    assert checksums(choosing.restore(machine, whole, 8)) == checksums(
        choosing.restore(machine, tmp_path / "run", 8)
    )


def test_training_says_dice_of_every_structure_and_keeps_the_best(trained):
    _, folder = trained
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [r for r in rows if r["split"] == "validation"][-1]
    assert {"dice", "dice_rim", "dice_cup", "dice_disc", "worst_group:dice:sex"} <= last.keys()
    assert last["dice"] == pytest.approx(np.mean([last[f"dice_{s}"] for s in STRUCTURES]))
    table = read_table(folder / "validation" / "00000008.parquet")
    assert segments.COLUMN not in table.frame and table.schema.kind == "values"
    by_sex = table.frame.groupby("sex")[[f"dice_{s}" for s in STRUCTURES]].mean().mean(axis=1)
    assert last["worst_group:dice:sex"] == pytest.approx(by_sex.drop("unknown", errors="ignore").min())


def test_the_worst_cases_of_every_group_are_drawn_where_nobody_else_may_see_them(scorer, tmp_path):
    machine, state, split = scorer
    frame, masks = segments.split_off(machine.predict(state, split)[0])
    segments.write(tmp_path / "t.parquet", masks)
    predicted = segments.Predicted(tmp_path / "t.parquet")
    cases = worst_cases.find(split, machine.config, frame, predicted, ["sex"], 2)
    mean = frame[["dice_rim", "dice_cup", "dice_disc"]].mean(axis=1)
    for level in ("F", "M"):
        found = [case.value for case in cases if case.level == level]
        assert found == sorted(mean[frame["sex"] == level].dropna())[:2]
    assert {case.level for case in cases} == {"F", "M"}
    assert cases[0].image.shape == (12, 10, 1) and cases[0].reference.shape == (12, 10)
    context = types.SimpleNamespace(
        worst=cases, metadata=split.metadata, min_cell=None, is_hidden=lambda attribute, level: level == "M"
    )
    (figure,) = overlays.section(context).figures
    assert "M:" not in figure.alt and figure.name == "worst_cases_sex" and figure.png[:4] == b"\x89PNG"
    context.min_cell = 11
    assert overlays.section(context) is None
    with pytest.raises(UserError, match="equipoise evaluate"):
        segments.Predicted(tmp_path / "other.parquet")


def test_without_classes_reweighing_and_resampling_give_every_group_the_same(masks_data_dir):
    split = data.open_split("tiny_masks", "train", masks_data_dir)
    count = split.columns["sex"].value_counts()
    known = count["F"] + count["M"]
    weighed = methods.make(config(**{"method.name": "reweighing", "method.group": "sex"}), split)
    np.testing.assert_allclose(weighed.table, [[known / 2 / count["F"], known / 2 / count["M"], 1]])
    drawn = methods.make(config(**{"method.name": "resampling", "method.group": "sex"}), split)
    order = drawn.order()
    sex = split.columns["sex"].to_numpy()[[order[i] for i in range(2000)]]
    assert (sex == "F").sum() == pytest.approx((sex == "M").sum(), rel=0.2)


def test_batches_hold_masks_on_the_grid_of_images(masks_data_dir):
    split = data.open_split("tiny_mask_volumes", "train", masks_data_dir)
    batch = data.read(split, [0, 3], run_config.Data(shape=(8, 10, 16)), "mask")
    assert batch["image"].shape == (2, 8, 10, 16, 1) and batch["mask"].shape == (2, 8, 10, 16)
    np.testing.assert_array_equal(batch["mask"][1, 1:7, :, 3:13], split.source[3]["mask"][:, 1:11])
    assert not batch["mask"][:, 0].any() and not batch["mask"][..., :3].any()
    np.testing.assert_array_equal(batch["spacing"], [[3, 2, 0.5]] * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.label": "sex"}, "the target of segmentation is 'mask'"),
        ({"data.cohort": "tiny"}, "has no label 'mask'"),
        ({"checkpoint.best_metric": "auroc"}, "masks have no 'auroc'"),
        ({"checkpoint.best_metric": "worst_group:dicer:sex"}, "Did you mean 'dice'"),
    ],
)
def test_mistakes_are_named(masks_data_dir, tiny_data_dir, changes, message):
    run = config(**changes)
    folder = tiny_data_dir if run.data.cohort == "tiny" else masks_data_dir
    with pytest.raises(UserError, match=message):
        make_task(run, data.open_split(run.data.cohort, "train", folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task.threshold": "youden"},
            "threshold has no effect with segmentation: it belongs to classification",
        ),
        (
            {"task.kind": "classification", "task.dice_over": "batch"},
            "dice_over has no effect with classification",
        ),
        ({"task.dice_weight": 1.5}, "must be in"),
        ({"task.loss_grid": "mask"}, "none of output, image"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    validation.validate(config())
    with pytest.raises(UserError, match=message):
        validation.validate(config(**changes))
