"""Package a cohort: read the raw files once, check them, split by subject, write ArrayRecord files.

  equipoise prepare --list
  equipoise prepare --cohort=simba/near_4mm
  equipoise prepare --cohort=simba/near_4mm --options=subjects=400,seed=1
  equipoise prepare --cohort=simba/near_4mm --options=velocity_model=pca,velocity_fields=/data/velocities
  equipoise prepare --cohort=fundus_phantom/demo --options=contrast_black=0.4
  equipoise prepare --cohort=harvard_fairseg/slo --source_dir=/data/raw/FairSeg --options=split=lists
  equipoise prepare --cohort=my_pkg.module:MyCohort --source_dir=/data/raw/my_cohort
  equipoise prepare --cohort=table --table=my.csv --image=path --label=y --subject=pid --attributes=sex,race,age

The last packages private data without a builder: a CSV (or Parquet) file with one row per PNG, JPEG or NIfTI image. Its
first call writes my.csv.schema.json, which says how every column will be read, and stops: look at it, edit it, then run
the same command again. It is then table/my, for --config.data.cohort=table/my. docs/own_cohort.md walks through it.

A prepared cohort is a TFDS dataset; beside its files, cohort_report.json counts every split by label and attribute and
lists each scan that was skipped, with the reason. A cohort that is already prepared is left as it is.
"""

import json
import pathlib

from absl import flags

from equipoise.launch import program

_COHORT = flags.DEFINE_string(
    "cohort", None, "NAME, NAME/CONFIG, or my_pkg.module:Builder for a builder of your own."
)
_LIST = flags.DEFINE_bool("list", False, "List the cohorts and their configurations.")
_OPTIONS = flags.DEFINE_list("options", [], "Settings of a cohort that has some, e.g. subjects=400,seed=1.")
_SOURCE_DIR = flags.DEFINE_string(
    "source_dir", None, "Folder of the raw cohort, for cohorts that are read from disk."
)
_YES = flags.DEFINE_bool(
    "yes", False, "Cohort table: take the proposed schema unseen, without a second call."
)
_NAME = flags.DEFINE_string(
    "name", None, "Cohort table: what to call it, table/NAME. Default: the table's name."
)
_TABLE_FLAGS = (
    flags.DEFINE_string("table", None, "Cohort table: CSV or Parquet file with one row per image."),
    flags.DEFINE_string("image", None, "Cohort table: column of image paths (PNG or JPEG, or NIfTI)."),
    flags.DEFINE_list(
        "label", None, "Cohort table: column(s) to predict, by comma: words or few whole numbers, or numbers."
    ),
    flags.DEFINE_string(
        "subject", None, "Cohort table: column that says whose image it is; splits are by subject."
    ),
    flags.DEFINE_list("attributes", None, "Cohort table: column(s) that make the groups, e.g. sex,race,age."),
    flags.DEFINE_string(
        "mask", None, "Cohort table: column of mask paths, each of its image's kind and shape."
    ),
    flags.DEFINE_string(
        "split", None, "Cohort table: column of train, validation, test, where they are given already."
    ),
    flags.DEFINE_string(
        "scan", None, "Cohort table: column of unique scan ids. Default: subject and number, by file name."
    ),
    flags.DEFINE_string(
        "image_root", None, "Cohort table: folder that relative paths start from. Default: the table's."
    ),
    flags.DEFINE_string(
        "schema", None, "Cohort table: the schema file. Default: TABLE.schema.json beside it."
    ),
    flags.DEFINE_list(
        "size",
        None,
        "Cohort table: H,W resizes pictures (bilinear); H,W,D crops or pads volumes about the centre.",
    ),
    flags.DEFINE_list(
        "spacing", None, "Cohort table: mm, one number or three, to which volumes are resampled first."
    ),
    flags.DEFINE_string(
        "cache_dir",
        None,
        "Cohort table: where decoded images wait, so that a killed build goes on. Default: DATA_DIR/.cache.",
    ),
    flags.DEFINE_bool("keep_cache", None, "Cohort table: keep the decoded images after the build."),
)


def main() -> None:
    """Prepares, or lists."""
    from equipoise.data_builders.base import catalogue
    from equipoise.data_builders.table.builder import TableCohort
    from equipoise.engine.errors import UserError

    if _LIST.value:
        for entry in catalogue.list_cohorts():
            print(
                f"{entry.name:12} {entry.description}\n{'':12} configurations: {', '.join(entry.configs) or 'none'}"
            )
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
    summary = json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())
    for split, counts in summary["counts"].items():
        print(f"{split:12} {counts['scans']:6} scans of {counts['subjects']} subjects")
        for what, number in counts["subjects_with_two_levels"].items():
            word = "WARNING" if what.startswith("attributes/") else "note"
            print(f"{'':12} {word}: {number} of these subjects have scans with different {what}")
        for structure, number in counts.get("scans_without", {}).items():
            if number:
                print(f"{'':12} note: {number} of these scans have no {structure}")
    for what, value in summary["findings"].items():
        print(f"{what.replace('_', ' ')}: {json.dumps(value)}")
    skipped = summary["skipped_total"]
    print(f"{skipped} scans skipped{', each with its reason in cohort_report.json' if skipped else ''}")
    print(f"prepared: {builder.data_path}")


if __name__ == "__main__":
    program.run(main)
