"""Audit any model from a table of its predictions: whom it serves worse, by how much, and how certain that is.

  equipoise audit --table=preds.csv --target=pneumonia --score=p_pneumonia --group=sex,race --out=audit

The table is a CSV or Parquet file with one row per image: the truth, a score from 0 to 1, and the attributes. It may come from
any model, framework or vendor. These flags do more:

  several models         --score=resnet=p_resnet,vit=p_vit
  a column of patients   --subject=patient_id            (intervals then allow for several images of a patient)
  ages as groups         --group=age,sex --bins=age:40,60,80
  intersections          --group=race,sex,race*sex
  the reference group    --reference=race:White,sex:M
  within each site       --control=site
  text as truth          --target=diagnosis --positive=malignant
  threshold              --threshold=0.3, or chosen on other rows: --split=fold --report_split=test --threshold=youden:val
  several classes        --target=grade --class_scores=p_{class}
  several labels         --target=edema,fracture --class_scores=p_{class}
  regression             --task=regression --target=age --score=predicted_age
  values of each case    --values=dice_cup,hd95_cup --group=sex
  folders of masks       --pred_dir=predictions --ref_dir=labels --attributes=people.csv --structures=1:disc,2:cup --group=sex
  two of several models  --compare=resnet,vit            (paired differences: overall, by group, and in the gaps)
  groups made alike      --adjust=age,site --adjust_to=reference --adjust_by=weighting   (adjusted gaps beside raw ones)
  bounds to keep         --policy=policy.yaml            (exit code 3 if a bound is violated)
  a report to share      --share --min_cell=11           (small groups are suppressed, and cannot be found by subtraction)

The audit writes report.html (one file that opens in any browser and needs no other), metrics.json, metrics.csv, model_card.md
and figures/ to --out. A person whose attribute is empty, NA or unknown is shown as unknown and compared with nobody. No row is
dropped. Neither the page nor the numbers name a person. The audit runs on the CPU, unless JAX_PLATFORMS says otherwise.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from equipoise.launch import program

if TYPE_CHECKING:
    from equipoise.engine.metrics.table.reader import Roles
    from equipoise.engine.metrics.table.table import Table

_TABLE = flags.DEFINE_string("table", None, "CSV or Parquet file, one row per image.")
_TARGET = flags.DEFINE_list(
    "target", [], "Column of the truth; for several labels, a column of 0 and 1 for each."
)
_SCORE = flags.DEFINE_list("score", [], "Column of the score, or NAME=COLUMN for each of several models.")
_CLASS_SCORES = flags.DEFINE_list(
    "class_scores", [], "Columns of the scores of a task with several classes or labels, such as p_{class}; NAME=p_{class} for several models."
)  # fmt: skip
_POSITIVE = flags.DEFINE_string(
    "positive",
    None,
    "Value of the target that stands for the positive class. Default: 1, true, yes, positive or present.",
)
_TASK = flags.DEFINE_enum(
    "task", None, ["binary", "multiclass", "multilabel", "regression", "segmentation", "values"],
    "Kind of task. Default: the kind that the other flags imply, else binary.",
)  # fmt: skip
_VALUES = flags.DEFINE_list(
    "values", [], "Columns of values that were computed for each case, such as dice_cup,hd95_cup."
)
_GROUP = flags.DEFINE_list("group", [], "Attributes whose groups are compared; race*sex is an intersection.")
_BINS = flags.DEFINE_multi_string(
    "bins", [], "Cuts that turn an attribute that is a number into groups: age:40,60,80. May be repeated."
)
_REFERENCE = flags.DEFINE_list(
    "reference", [], "The group with which the others are compared: race:White. Default: the largest."
)
_SUBJECT = flags.DEFINE_string(
    "subject", None, "Column of the patient. Default: subject_id, if there is such a column."
)
_ID = flags.DEFINE_string(
    "id",
    None,
    "Column that identifies the image, with unique values. Default: scan_id, if there is such a column.",
)
_SPLIT = flags.DEFINE_string("split", None, "Column of the split.")
_REPORT_SPLIT = flags.DEFINE_string("report_split", "test", "With --split: the split that is reported.")
_CONTROL = flags.DEFINE_list(
    "control", [], "Columns; the groups are also compared within each of their levels."
)
_THRESHOLD = flags.DEFINE_string(
    "threshold", "0.5", "A number, or RULE:SPLIT: youden:val, sens0.9:val, spec0.9:val. A score at or above it counts as positive."
)  # fmt: skip
_PRED_DIR = flags.DEFINE_string("pred_dir", None, "Folder of predicted masks, NIfTI or PNG.")
_REF_DIR = flags.DEFINE_string("ref_dir", None, "Folder of reference masks with the same file names.")
_ATTRIBUTES = flags.DEFINE_string(
    "attributes", None, "With folders of masks: a table with a column `case` (the file name without its ending) and the attributes."
)  # fmt: skip
_STRUCTURES = flags.DEFINE_list(
    "structures", [], "With folders of masks: CODE:NAME of each structure, such as 1:disc,2:cup. Default: every code but 0, named by its number."
)  # fmt: skip
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 1.0, "With folders of masks: tolerance of the normalised surface Dice, in mm (for PNG files, in pixels).", lower_bound=0.0
)  # fmt: skip
_SHARE = flags.DEFINE_bool("share", False, "Suppress small groups, so that the report may be shared.")
_MIN_CELL = flags.DEFINE_integer(
    "min_cell",
    11,
    "With --share: fewest patients, events and non-events of a group that is shown.",
    lower_bound=2,
)
_POLICY = flags.DEFINE_string(
    "policy", None, "YAML file of bounds that the scores must keep; the exit code is 3 if one is violated."
)
_COMPARE = flags.DEFINE_list("compare", [], "Two models to compare on the same people: OLD,NEW.")
_ADJUST = flags.DEFINE_list(
    "adjust", [], "Confounders, columns of numbers or levels, in which the groups are made alike; adjusted gaps stand beside raw ones."
)  # fmt: skip
_ADJUST_TO = flags.DEFINE_enum(
    "adjust_to", "reference", ["reference", "group", "pooled"], "With --adjust: whose distribution of the confounders both groups are given."
)  # fmt: skip
_ADJUST_BY = flags.DEFINE_enum(
    "adjust_by", "weighting", ["weighting", "standardization", "matching"],
    "With --adjust: inverse propensity weights, cells of the confounders, or one-to-one pairs (by propensity, if a confounder is a number).",
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "Folder to write to.")
_RESAMPLES = flags.DEFINE_integer(
    "resamples", None, "Resamples of the bootstrap. Default: 2000, and fewer for tables with more than 100,000 rows.", lower_bound=100
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the bootstrap.")
_SHARE_ONCE = (
    "The numbers of two reports can be subtracted from each other. Share only one report on these people, and no second one with other "
    "groups, cuts or rows."
)  # fmt: skip
_PRIVATE = ("table", "out", "pred_dir", "ref_dir", "attributes", "policy")


def _named(words: Sequence[str], flag: str) -> dict[str, str]:
    """Parses NAME=COLUMN: ``resnet=p1,vit=p2`` -> {"resnet": "p1", "vit": "p2"}; a column alone is its own name.

    Raises:
      UserError: for text of another form, naming the flag.
    """
    from equipoise.engine.errors import UserError

    columns: dict[str, str] = {}
    for word in words:
        name, equals, column = word.partition("=")
        if name in columns or (equals and not column):
            raise UserError(f"--{flag}={','.join(words)}: write NAME=COLUMN once for each model")
        columns[name] = column or name
    return columns


def _bins() -> dict[str, tuple[float, ...]]:
    """Attribute -> its cuts, from ``--bins``.

    Raises:
      UserError: for text of another form.
    """
    from equipoise.engine.errors import UserError

    bins: dict[str, tuple[float, ...]] = {}
    for text in _BINS.value:
        name, _, cuts = text.partition(":")
        try:
            values = tuple(float(c) for c in cuts.split(","))
        except ValueError:
            values = ()
        if not values or any(a >= b for a, b in itertools.pairwise(values)):
            raise UserError(
                f"--bins={text}: write NAME:CUT,CUT,... with increasing numbers, such as age:40,60,80"
            )
        bins[name] = values
    return bins


def _pairs(words: Sequence[str], flag: str, example: str) -> dict[str, str]:
    """Parses NAME:VALUE: ``race:White,sex:M`` -> {"race": "White", "sex": "M"}.

    Raises:
      UserError: for text of another form, naming the flag and an example.
    """
    from equipoise.engine.errors import UserError

    if not all(":" in word for word in words):
        raise UserError(f"--{flag}={','.join(words)}: write {example}")
    return dict(word.split(":", 1) for word in words)


def _task() -> str:
    """The kind of task that the flags describe."""
    if _TASK.value == "segmentation" or _VALUES.value or _PRED_DIR.value:
        return "values"
    inferred = (
        "binary" if not _CLASS_SCORES.value else "multiclass" if len(_TARGET.value) == 1 else "multilabel"
    )
    return _TASK.value or inferred


def _roles() -> Roles:
    """The columns by the part that each plays.

    Raises:
      UserError: when a flag is missing for the task.
    """
    from equipoise.engine.errors import UserError
    from equipoise.engine.metrics.table import reader

    task, classes = _task(), _named(_CLASS_SCORES.value, "class_scores")
    if task in ("multiclass", "multilabel"):
        if not classes or not all(c.count("{class}") == 1 for c in classes.values()):
            raise UserError(f"--task={task} needs --class_scores=p_{{class}}, the columns of the scores")
        models = {"model" if name == column else name: column for name, column in classes.items()}
    else:
        flag = "values" if task == "values" else "score"
        models = _named(_VALUES.value if task == "values" else _SCORE.value, flag)
        if not models and not _PRED_DIR.value:
            raise UserError(
                f"no --{flag}: name the column of the {'values' if flag == 'values' else 'score'}"
            )
    if task != "values" and not _TARGET.value:
        raise UserError("no --target: name the column of the truth")
    if task in ("binary", "multiclass", "regression") and len(_TARGET.value) > 1:
        raise UserError("several --target columns mean several labels: add --class_scores=p_{class}")
    words = [w for g in (*_GROUP.value, *_CONTROL.value) for w in re.split(r"[*|]", g)]
    return reader.Roles(
        task, () if task == "values" else tuple(_TARGET.value), {name: (column,) for name, column in models.items()}, _POSITIVE.value,
        tuple(dict.fromkeys(words)), _bins(), tuple(_ADJUST.value), _SUBJECT.value, _ID.value, _SPLIT.value,
    )  # fmt: skip


def _read(roles: Roles) -> Table:
    """Reads the table, or computes it from folders of masks."""
    from equipoise.engine.metrics.table import reader

    if not _PRED_DIR.value:
        return reader.read(pathlib.Path(_TABLE.value), roles)
    from equipoise.engine.metrics.table import mask_folders as masks

    paths = (pathlib.Path(flag.value) for flag in (_PRED_DIR, _REF_DIR, _ATTRIBUTES))
    structures = masks.name_structures(_STRUCTURES.value) if _STRUCTURES.value else None
    return masks.read(*paths, roles, structures=structures, tolerance=_TOLERANCE.value)


def made_by() -> str:
    """The command line as a report shows it: without the folders of files."""
    shown = ["equipoise audit"]
    for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        if flag.present and flag.name in _PRIVATE:
            shown.append(f"--{flag.name}={shlex.quote(pathlib.Path(flag.value).name)}")
        elif flag.present:
            shown += map(shlex.quote, flag.serialize().splitlines())
    return " ".join(shown)


def main() -> int:
    """Writes the audit; returns the exit code."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # so that a GPU stays free for training
    from equipoise.engine.errors import UserError

    if not _OUT.value:
        raise UserError("no --out: name the folder to write to")
    if flags.FLAGS["min_cell"].present and not _SHARE.value:
        raise UserError("--min_cell suppresses small groups only with --share; add --share")
    folders = (_PRED_DIR.value, _REF_DIR.value, _ATTRIBUTES.value)
    if any(folders) and not all(folders):
        raise UserError(
            "folders of masks need --pred_dir, --ref_dir and --attributes, a CSV file with a column `case`"
        )
    if bool(_TABLE.value) == any(folders):
        raise UserError(
            "give either --table, a CSV or Parquet file, or folders of masks: --pred_dir, --ref_dir and --attributes"
        )
    output = pathlib.Path(_OUT.value).expanduser()
    roles = _roles()

    from equipoise.engine import report
    from equipoise.engine.metrics.decisions import policy
    from equipoise.engine.metrics.table import thresholds

    rules = policy.read(_POLICY.value) if _POLICY.value else None
    table = thresholds.reported(
        _read(roles), _REPORT_SPLIT.value if _SPLIT.value else "all", _THRESHOLD.value
    )
    context = report.audit_table(
        table, groups=_GROUP.value, control=_CONTROL.value,
        reference=_pairs(_REFERENCE.value, "reference", "ATTRIBUTE:LEVEL, such as race:White"), compare=_COMPARE.value,
        adjust=report.Adjustment(_ADJUST.value, _ADJUST_TO.value, _ADJUST_BY.value) if _ADJUST.value else None,
        rules=rules, resamples=_RESAMPLES.value, seed=_SEED.value, min_cell=_MIN_CELL.value if _SHARE.value else None,
        made_by=made_by(),
    )  # fmt: skip
    files = report.write_report(context, output)
    print(f"{table.frame['cohort'].iloc[0]}: {len(table.frame)} cases")
    notes = [
        *table.notes,
        *((_SHARE_ONCE,) if _SHARE.value else ()),
        *(() if _GROUP.value else ("There is no --group, so the report compares no groups.",)),
    ]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(f"  {p}" for p in files if p.parent == output) + f"\n  {output / 'figures'}/")
    return program.gate(context.verdicts)


if __name__ == "__main__":
    program.run(main)
