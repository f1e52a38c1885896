"""Prepare a cohort: read its raw files once, check them, split by subject, and write ArrayRecord files.

  equipoise prepare --list
  equipoise prepare --cohort=simba/near_4mm
  equipoise prepare --cohort=simba/near_4mm --options=subjects=400,seed=1
  equipoise prepare --cohort=simba/near_4mm --options=velocity_model=pca,velocity_fields=/data/velocities
  equipoise prepare --cohort=fundus_phantom/demo --options=contrast_black=0.4
  equipoise prepare --cohort=harvard_fairseg/slo --source_dir=/data/raw/FairSeg --options=split=lists
  equipoise prepare --cohort=my_pkg.module:MyCohort --source_dir=/data/raw/my_cohort
  equipoise prepare --cohort=table --table=my.csv --image=path --label=y --subject=pid --attributes=sex,race,age

The last command prepares private data without a builder: a CSV (or Parquet) file with one row per PNG, JPEG or NIfTI
image. Its first call writes my.csv.schema.json, which says how every column will be read, and stops. Look at that file,
edit it where needed, and run the same command again. The cohort is then called table/my, so that runs use it with
--config.data.cohort=table/my. docs/own_cohort.md explains each step.

A prepared cohort is a TFDS dataset. Beside its files, cohort_report.json counts the scans of every split by label and
attribute, and lists each scan that was skipped, with the reason. A cohort that is already prepared is left as it is.
"""

import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from equipoise.launch import program

if TYPE_CHECKING:
    from equipoise.data_builders.base.catalogue import Entry

_COHORT = flags.DEFINE_string(
    "cohort", None, "NAME, NAME/CONFIGURATION, or my_pkg.module:Builder for a builder of your own."
)
_LIST = flags.DEFINE_bool("list", False, "List the cohorts and their configurations.")
_OPTIONS = flags.DEFINE_list(
    "options", [], "Settings, for cohorts that have some, separated by commas, e.g. subjects=400,seed=1."
)
_SOURCE_DIR = flags.DEFINE_string(
    "source_dir", None, "Folder of the raw files, for cohorts that are read from disk."
)
_YES = flags.DEFINE_bool(
    "yes", False, "Cohort table: accept the proposed schema without looking at it, in one call."
)
_NAME = flags.DEFINE_string(
    "name", None, "Cohort table: NAME of the cohort, table/NAME. Default: the name of the table's file."
)
_TABLE_FLAGS = (
    flags.DEFINE_string("table", None, "Cohort table: CSV or Parquet file with one row per image."),
    flags.DEFINE_string(
        "image", None, "Cohort table: column with the paths of images (all PNG or JPEG, or all NIfTI)."
    ),
    flags.DEFINE_list(
        "label",
        None,
        "Cohort table: column(s) to predict, separated by commas. Words and a few whole numbers are classes, other "
        "numbers are numbers.",
    ),
    flags.DEFINE_string(
        "subject", None, "Cohort table: column that names the person in the image; splits are by person."
    ),
    flags.DEFINE_list(
        "attributes",
        None,
        "Cohort table: column(s) that define the groups, separated by commas, e.g. sex,race,age.",
    ),
    flags.DEFINE_string(
        "mask", None, "Cohort table: column with the paths of masks, each of the same kind and shape as its image."
    ),
    flags.DEFINE_string(
        "split", None, "Cohort table: column with the split of each row (train, validation or test), if it is fixed."
    ),
    flags.DEFINE_string(
        "scan",
        None,
        "Cohort table: column with a different id in every row. Default: subject and number, in the order of file names.",
    ),
    flags.DEFINE_string(
        "image_root", None, "Cohort table: folder that relative paths start from. Default: the folder of the table."
    ),
    flags.DEFINE_string("schema", None, "Cohort table: the schema file. Default: TABLE.schema.json beside it."),
    flags.DEFINE_list(
        "size",
        None,
        "Cohort table: H,W resizes pictures (bilinear); H,W,D crops or pads volumes about the centre.",
    ),
    flags.DEFINE_list(
        "spacing",
        None,
        "Cohort table: voxel size in mm, one number or three; volumes are resampled to it before they are cropped or "
        "padded.",
    ),
    flags.DEFINE_string(
        "cache_dir",
        None,
        "Cohort table: folder of decoded images, from which a build that was stopped goes on. Default: DATA_DIR/.cache.",
    ),
    flags.DEFINE_bool("keep_cache", None, "Cohort table: keep the decoded images after the build."),
)  # fmt: skip


def main() -> None:
    """Prepares a cohort, or lists the cohorts."""
    from equipoise.data_builders.base import catalogue, report
    from equipoise.data_builders.table.builder import TableCohort
    from equipoise.engine.errors import UserError

    if _LIST.value:
        print(_listing(catalogue.list_cohorts()))
        return
    if not _COHORT.value:
        raise UserError("no --cohort: name one, or see --list")
    options = dict(program.setting(text, "--options") for text in _OPTIONS.value)
    options |= {flag.name: flag.value for flag in _TABLE_FLAGS if flag.value is not None}
    source = pathlib.Path(_SOURCE_DIR.value).expanduser() if _SOURCE_DIR.value else None
    name = f"{_COHORT.value}/{_NAME.value}" if _NAME.value else _COHORT.value
    builder = catalogue.find_builder(name, data_dir=program.data_dir(), source_dir=source, **options)
    if isinstance(builder, TableCohort) and builder.is_proposal:
        print(builder.propose())
        builder.check()
        if not _YES.value:
            print("look at it, edit it, then run the same command again (or add --yes)")
            return
    if builder.data_path.exists():
        print(f"already prepared: {builder.data_path}")
    builder.download_and_prepare()
    content = json.loads((pathlib.Path(builder.data_path) / report.FILE).read_text())
    print("\n".join([*report.describe(content), f"prepared: {builder.data_path}"]))


def _listing(entries: Sequence["Entry"]) -> str:
    """Says of every cohort its name, what it is and its configurations, or why it cannot be used."""
    width = max(len(entry.name) for entry in entries) + 2
    lines = []
    for entry in entries:
        if entry.problem:
            lines.append(f"{entry.name:{width}}cannot be imported: {entry.problem}")
            continue
        lines.append(f"{entry.name:{width}}{entry.description}")
        configs = f"configurations: {', '.join(entry.configs)}" if entry.configs else "no configurations"
        margin = " " * width
        lines.append(textwrap.fill(configs, 110, initial_indent=margin, subsequent_indent=margin + "  "))
    lines.append("Prepare one with `equipoise prepare --cohort=NAME/CONFIGURATION`; --help has examples.")
    return "\n".join(lines)


if __name__ == "__main__":
    program.run(main)
