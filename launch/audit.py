"""Audit any model from a table of its predictions: whom does it serve worse, by how much, and how surely.

  equipoise audit --table=preds.csv --target=pneumonia --score=p_pneumonia --group=sex,race --out=audit

The table is a CSV or Parquet file with one row per image: the truth, a score from 0 to 1, and the attributes. It may come from
any model, framework or vendor. Say more where there is more to say:

  several models         --score=resnet=p_resnet,vit=p_vit
  a patient's column     --subject=patient_id            (patients with several images: intervals allow for it)
  ages as groups         --group=age,sex --bins=age:40,60,80
  intersections          --group=race,sex,race*sex
  the group to compare   --reference=race:White,sex:M
  within sites           --control=site
  text as truth          --target=diagnosis --positive=malignant
  threshold              --threshold=0.3, or chosen on other rows: --split=fold --report_split=test --threshold=youden:val
  several classes        --target=grade --class_scores=p_{class}
  several labels         --target=edema,fracture --class_scores=p_{class}
  regression             --task=regression --target=age --score=predicted_age
  values of each case    --values=dice_cup,hd95_cup --group=sex
  folders of masks       --pred_dir=predictions --ref_dir=labels --attributes=people.csv --structures=1:disc,2:cup --group=sex
  two of several models  --compare=resnet,vit            (paired differences, overall, by group and of the gaps)
  alike in age and site  --adjust=age,site --adjust_to=reference --adjust_by=weighting   (adjusted beside raw gaps)
  bounds to keep         --policy=policy.yaml            (exit code 3 where one is violated)
  to give away           --share --min_cell=11           (small groups are suppressed, also against subtraction)

Writes report.html (stands alone; open it in any browser), metrics.json, metrics.csv, model_card.md and figures/ to --out. An
attribute that is empty, NA or unknown is shown as unknown and compared with nobody. No row is dropped. Neither page nor
numbers name a person. Runs on the CPU, unless JAX_PLATFORMS says otherwise.
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
_TARGET = flags.DEFINE_list("target", [], "Column of the truth; for several labels, one 0/1 column each.")
_SCORE = flags.DEFINE_list("score", [], "Column of the score, or NAME=COLUMN for each of several models.")
_CLASS_SCORES = flags.DEFINE_list(
    "class_scores", [], "Columns of the scores of a task with classes, such as p_{class}; NAME=p_{class} for several models."
)  # fmt: skip
_POSITIVE = flags.DEFINE_string(
    "positive",
    None,
    "Value of the target that is the positive class. Default: 1, true, yes, positive or present.",
)
_TASK = flags.DEFINE_enum(
    "task", None, ["binary", "multiclass", "multilabel", "regression", "segmentation", "values"],
    "Kind of task. Default: what the other flags say, else binary.",
)  # fmt: skip
_VALUES = flags.DEFINE_list(
    "values", [], "Columns of values computed for each case, such as dice_cup,hd95_cup."
)
_GROUP = flags.DEFINE_list("group", [], "Attributes whose groups are compared; race*sex is an intersection.")
_BINS = flags.DEFINE_multi_string(
    "bins", [], "Cuts of an attribute that is a number: age:40,60,80. May be repeated."
)
_REFERENCE = flags.DEFINE_list(
    "reference", [], "The group that the others are compared with: race:White. Default: the largest."
)
_SUBJECT = flags.DEFINE_string(
    "subject", None, "Column of the patient. Default: subject_id where there is one."
)
_ID = flags.DEFINE_string("id", None, "Column of the image, unique. Default: scan_id where there is one.")
_SPLIT = flags.DEFINE_string("split", None, "Column of the split.")
_REPORT_SPLIT = flags.DEFINE_string("report_split", "test", "With --split: the split that is reported.")
_CONTROL = flags.DEFINE_list("control", [], "Columns within whose levels the groups are compared as well.")
_THRESHOLD = flags.DEFINE_string(
    "threshold", "0.5", "A number, or RULE:SPLIT: youden:val, sens0.9:val, spec0.9:val. A score at or above it is a positive."
)  # fmt: skip
_PRED_DIR = flags.DEFINE_string("pred_dir", None, "Folder of predicted masks, NIfTI or PNG.")
_REF_DIR = flags.DEFINE_string("ref_dir", None, "Folder of reference masks under the same names.")
_ATTRIBUTES = flags.DEFINE_string(
    "attributes", None, "With folders of masks: table with a column `case` (file name without its ending) and the attributes."
)  # fmt: skip
_STRUCTURES = flags.DEFINE_list(
    "structures", [], "With folders of masks: CODE:NAME, such as 1:disc,2:cup. Default: every code but 0, under its number."
)  # fmt: skip
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 1.0, "With folders of masks: of the normalised surface Dice, in mm (of PNG files in pixels).", lower_bound=0.0
)  # fmt: skip
_SHARE = flags.DEFINE_bool("share", False, "Suppress small groups, so that the report may be given away.")
_MIN_CELL = flags.DEFINE_integer(
    "min_cell", 11, "With --share: fewest patients, events and non-events.", lower_bound=2
)
_POLICY = flags.DEFINE_string(
    "policy", None, "YAML file of bounds that scores must keep; exit code 3 where one is violated."
)
_COMPARE = flags.DEFINE_list("compare", [], "Two models to compare on the same people: OLD,NEW.")
_ADJUST = flags.DEFINE_list(
    "adjust", [], "Confounders that groups are made alike in: columns of numbers or levels; adjusted gaps beside raw ones."
)  # fmt: skip
_ADJUST_TO = flags.DEFINE_enum(
    "adjust_to", "reference", ["reference", "group", "pooled"], "With --adjust: whose confounders both groups are given."
)  # fmt: skip
_ADJUST_BY = flags.DEFINE_enum(
    "adjust_by", "weighting", ["weighting", "standardization", "matching"],
    "With --adjust: inverse propensity, cells of the confounders, or one-to-one pairs (of like propensity, where one is a number).",
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "Folder to write to.")
_RESAMPLES = flags.DEFINE_integer(
    "resamples", None, "Bootstrap resamples. Default: 2000, and fewer of tables with more than 100,000 rows.", lower_bound=100
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "Of the bootstrap.")
_ONCE = (
    "Numbers of two releases can be subtracted from each other: share one report of these people, not a second with other groups, cuts "
    "or rows."
)  # fmt: skip
_PRIVATE = ("table", "out", "pred_dir", "ref_dir", "attributes", "policy")


def _named(words: Sequence[str], flag: str) -> dict[str, str]:
    """``resnet=p1,vit=p2`` -> {"resnet": "p1", "vit": "p2"}; a bare column is its own name."""
    from equipoise.engine.errors import UserError

    found = {}
    for word in words:
        name, equals, column = word.partition("=")
        if name in found or (equals and not column):
            raise UserError(f"--{flag}={','.join(words)}: write NAME=COLUMN once for each model")
        found[name] = column or name
    return found


def _bins() -> dict[str, tuple[float, ...]]:
    from equipoise.engine.errors import UserError

    found = {}
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
        found[name] = values
    return found


def _pairs(words: Sequence[str], flag: str, example: str) -> dict[str, str]:
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
    """Which column plays which part.

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
        raise UserError("several --target columns are several labels: add --class_scores=p_{class}")
    words = [w for g in (*_GROUP.value, *_CONTROL.value) for w in re.split(r"[*|]", g)]
    return reader.Roles(
        task, () if task == "values" else tuple(_TARGET.value), {name: (column,) for name, column in models.items()}, _POSITIVE.value,
        tuple(dict.fromkeys(words)), _bins(), tuple(_ADJUST.value), _SUBJECT.value, _ID.value, _SPLIT.value,
    )  # fmt: skip


def _read(roles: Roles) -> Table:
    """The table, or what the masks say."""
    from equipoise.engine.metrics.table import reader

    if not _PRED_DIR.value:
        return reader.read(pathlib.Path(_TABLE.value), roles)
    from equipoise.engine.metrics.table import mask_folders as masks

    paths = (pathlib.Path(flag.value) for flag in (_PRED_DIR, _REF_DIR, _ATTRIBUTES))
    structures = masks.name_structures(_STRUCTURES.value) if _STRUCTURES.value else None
    return masks.read(*paths, roles, structures=structures, tolerance=_TOLERANCE.value)


def made_by() -> str:
    """The command line without the places of files, to be shown in a report."""
    shown = ["equipoise audit"]
    for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        if flag.present and flag.name in _PRIVATE:
            shown.append(f"--{flag.name}={shlex.quote(pathlib.Path(flag.value).name)}")
        elif flag.present:
            shown += map(shlex.quote, flag.serialize().splitlines())
    return " ".join(shown)


def main() -> int:
    """Audits; the exit code."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a GPU is left to those who train on it
    from equipoise.engine.errors import UserError

    if not _OUT.value:
        raise UserError("no --out: name the folder to write to")
    if flags.FLAGS["min_cell"].present and not _SHARE.value:
        raise UserError("--min_cell suppresses small groups only with --share: add it")
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
        *((_ONCE,) if _SHARE.value else ()),
        *(() if _GROUP.value else ("No --group: the report compares nobody.",)),
    ]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(f"  {p}" for p in files if p.parent == output) + f"\n  {output / 'figures'}/")
    return program.gate(context.verdicts)


if __name__ == "__main__":
    program.run(main)
