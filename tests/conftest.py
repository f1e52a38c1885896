"""What tests share: a tiny cohort prepared once by the real builder, and a run trained on it once."""

import os
import pathlib
import shutil

# Most of the suite's time is compilation: compiled programs are kept for other tests, for the programs that tests start, and
# for the next call of pytest. JAX reads this when it is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import numpy as np
import pytest

from tests import launching
from tests.tiny_cohort import Tiny, TinyMasks, TinyMaskVolumes


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory):
    """A data folder that holds the cohort ``tiny``."""
    folder = tmp_path_factory.mktemp("cohorts")
    Tiny(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(scope="session")
def masks_data_dir(tmp_path_factory):
    """A data folder that holds the cohorts ``tiny_masks`` and ``tiny_mask_volumes``."""
    folder = tmp_path_factory.mktemp("masks")
    for cohort in (TinyMasks, TinyMaskVolumes):
        cohort(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(scope="session")
def _tiny_workdir(tiny_data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    launching.train(workdir, tiny_data_dir)
    return workdir


@pytest.fixture
def tiny_run(_tiny_workdir, tmp_path):
    """(configuration, workdir) of a finished run; the workdir is a copy that a test may spoil."""
    from equipoise.engine import config

    workdir = tmp_path / "tiny_run"
    shutil.copytree(_tiny_workdir, workdir)
    return config.load(workdir), workdir


@pytest.fixture
def rng():
    """A seeded NumPy generator."""
    return np.random.default_rng(0)
