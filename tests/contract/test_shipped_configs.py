"""Every run of every study resolves, and trains two steps when shrunk."""

import functools
import importlib

import pytest

from equipoise import tasks
from equipoise.engine import config as run_config
from equipoise.engine import models, validation


def every_run():
    for study in tasks.studies("runs"):
        runs = importlib.import_module(f"equipoise.tasks.{study}.runs")
        for name in runs.names():
            yield pytest.param(runs, name, id=f"{study}:{name}")


EVERY_RUN = list(every_run())
# The runs `near` and `phantom` on other images, and `sites` at another size of voxels.
ALIKE = {"simba:none", "simba:far", "simba:intensity", "simba:both", "simba:sites_paper", "fairseg:unet"}
TRAINED = [
    pytest.param(*run.values, id=run.id, marks=[pytest.mark.slow] * (run.id in ALIKE)) for run in EVERY_RUN
]
SMALL = {"simba": {"subjects": 24, "resolution": 5}, "fundus_phantom": {"subjects": 40, "size": 64}}
STAND_INS = {"harvard_fairseg/slo": "fundus_phantom/demo"}  # of the same attributes and masks, and not gated
SHRUNK = {
    "sam": {
        "width": 32,
        "depth": 1,
        "heads": 2,
        "global_blocks": (0,),
        "out_width": 16,
        "decoder_hidden": 32,
    },
    "transunet": {"width": 32, "depth": 2, "heads": 2, "hidden": 64, "head": 16, "decoder": (16, 8, 8, 8)},
    "unet": {"features": (4, 8)},
    "sfcn": {"features": (4, 8)},
}


@pytest.mark.parametrize(("runs", "name"), EVERY_RUN)
def test_resolves_and_opens_with_its_command_cost_and_expectation(runs, name):
    config, text = runs.get_config(name), runs.__doc__
    validation.validate(config)
    models.build(config.model.name, num_outputs=2, dtype=config.model.dtype, **config.model.args)
    assert "equipoise train" in text and "Cost:" in text and "What to expect:" in text


@pytest.mark.parametrize(("runs", "name"), TRAINED)
def test_trains_two_steps_shrunk(runs, name, shrunken, tmp_path):
    from equipoise.engine import data
    from equipoise.engine.training import loop
    from equipoise.tasks import make_task

    full = runs.get_config(name)
    folder, prepare = shrunken
    small = {
        "num_steps": 2, "data.batch_size": 4, "evaluation.every_steps": 2, "checkpoint.every_steps": 2,
        "data.cohort": prepare(full.data.cohort), "writers.console": False, "writers.tensorboard": False,
        "model.args": full.model.args | SHRUNK.get(full.model.name, {}),
    }  # fmt: skip
    if full.data.cohort in STAND_INS:
        small["data.shape"] = (32, 32)
    config = run_config.replaced(full, **small)
    split = data.open_split(config.data.cohort, "train", folder)
    (state,) = loop.train(config, make_task(config, split), folder, tmp_path / "run")
    assert int(state.step) == 2
    assert (tmp_path / "run" / "validation" / "00000002.parquet").exists()


@pytest.fixture(scope="module")
def shrunken(tmp_path_factory):
    """(folder of cohorts, function that prepares a shipped cohort small and gives its name there)."""
    from equipoise.data_builders.base import catalogue

    folder = tmp_path_factory.mktemp("shrunken")

    @functools.cache
    def prepare(cohort):
        name = STAND_INS.get(cohort, cohort)
        builder = catalogue.find_builder(name, data_dir=folder, **SMALL[name.partition("/")[0]])
        builder.download_and_prepare()
        return str(builder.data_path.parent.relative_to(folder))

    return folder, prepare
