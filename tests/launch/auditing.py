"""Running the audit on made-up people, several times in one process, and reading what it left."""

import json
import pathlib
import subprocess
import sys

import jsonschema
import numpy as np
import pandas as pd

from equipoise.engine.report.page import page
from tests import launching

SCHEMA = json.loads((pathlib.Path(page.__file__).parent / "metrics.schema.json").read_text())
ROLES = ("--target=y", "--score=p", "--subject=pid")
_DRIVER = """
import json, pathlib, sys
from absl import flags
from equipoise.engine.config import UserError
from equipoise.launch import audit
told = []
for words in json.loads(sys.argv[1]):
    for flag in flags.FLAGS.get_key_flags_for_module(audit):
        flag.unparse()
    flags.FLAGS(["audit", *words])
    try:
        audit.main()
        told.append("")
    except UserError as error:
        told.append(str(error))
pathlib.Path("told.json").write_text(json.dumps(told))
"""


def audit(folder, *words):
    """Runs the command in a folder, in a process of its own."""
    command = [sys.executable, "-m", "equipoise.launch", "audit", *words]
    return subprocess.run(
        command, cwd=folder, env=launching.environment(), capture_output=True, text=True, timeout=600
    )


def in_one_process(folder, commands):
    """Runs the command with several sets of flags, importing once; what the user is told of each, empty where all is well."""
    given = ["-W", "error::RuntimeWarning", "-W", "error::UserWarning", "-c", _DRIVER, json.dumps(commands)]
    done = subprocess.run(
        [sys.executable, *given], cwd=folder, env=launching.environment(), capture_output=True, text=True, timeout=600
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


def document(folder):
    """The numbers of a report, which fit their schema."""
    found = json.loads((folder / "metrics.json").read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def people(n=240, seed=0, **columns):
    """A table with a gap by race; patients have one or two rows."""
    generator = np.random.default_rng(seed)
    sick, race = generator.integers(0, 2, n), generator.choice(["A", "B"], n)
    logit = 2.5 * sick - 1.2 - 0.8 * (race == "B") * sick + generator.normal(0, 1, n)
    values = {
        "pid": [f"person-{i // 2 if i < n // 2 else i}" for i in range(n)],
        "y": sick,
        "p": (1 / (1 + np.exp(-logit))).round(4),
        "race": race,
        "sex": generator.choice(["F", "M", ""], n, p=[0.5, 0.45, 0.05]),
        "age": generator.integers(20, 90, n),
    }
    return pd.DataFrame(values | columns)


def everything(n=160):
    """A table with columns for every kind of task."""
    generator, table = np.random.default_rng(1), people(n)
    shares = generator.dirichlet([1, 1, 1], n)
    table["grade"] = np.array(["mild", "severe", "none"])[[generator.choice(3, p=p) for p in shares]]
    table[["p_mild", "p_severe", "p_none"]] = shares
    table["edema"], table["fracture"] = generator.integers(0, 2, (2, n))
    truth = table[["edema", "fracture"]].to_numpy()
    table[["q_edema", "q_fracture"]] = np.clip(0.25 + 0.4 * truth + generator.normal(0, 0.2, (n, 2)), 0, 1)
    table["guess"] = table["age"] + generator.normal(0, 5, n)
    table["dice_cup"], table["hd95_cup"] = generator.beta(8, 2, n), generator.gamma(4, 1, n)
    table.loc[5, "hd95_cup"] = np.nan
    return table


def write_masks(folder, size=24):
    """Folders of label masks as PNG, the predictions one column off in one case, and the people."""
    from PIL import Image

    for name in ("pred", "ref"):
        (folder / name).mkdir()
    for case in range(12):
        mask = np.zeros((size, size), np.uint8)
        mask[4:12, 4:12], mask[6:9, 6:9] = 1, 2
        Image.fromarray(mask).save(folder / "ref" / f"case{case}.png")
        Image.fromarray(np.roll(mask, case == 3, axis=1)).save(folder / "pred" / f"case{case}.png")
    cases = pd.DataFrame({"case": [f"case{i}" for i in range(12)], "sex": ["F", "M"] * 6})
    cases.to_csv(folder / "cases.csv", index=False)
