"""Package a cohort: read the raw files once, check them, split by subject, write ArrayRecord files.

  equipoise prepare --list
  equipoise prepare --cohort=simba/near_4mm
  equipoise prepare --cohort=simba/near_4mm --options=subjects=400,seed=1
  equipoise prepare --cohort=my_pkg.module:MyCohort --source_dir=/data/raw/my_cohort

A prepared cohort is a TFDS dataset; beside its files, cohort_report.json counts every split by label and attribute and
lists each scan that was skipped, with the reason. A cohort that is already prepared is left as it is.
"""

import json
import pathlib

from absl import flags

from launch import program

_COHORT = flags.DEFINE_string(
    "cohort", None, "NAME, NAME/CONFIG, or my_pkg.module:Builder for a builder of your own."
)
_LIST = flags.DEFINE_bool("list", False, "List the cohorts and their configurations.")
_OPTIONS = flags.DEFINE_list("options", [], "Settings of a synthetic cohort, e.g. subjects=400,seed=1.")
_SOURCE_DIR = flags.DEFINE_string(
    "source_dir", None, "Folder of the raw cohort, for cohorts that are read from disk."
)


def main() -> None:
    """Prepares, or lists."""
    from data_builders import cohort
    from engine.config import UserError

    if _LIST.value:
        for entry in cohort.list_cohorts():
            print(
                f"{entry.name:12} {entry.description}\n{'':12} configurations: {', '.join(entry.configs) or 'none'}"
            )
        return
    if not _COHORT.value:
        raise UserError("no --cohort: name one, or see --list")
    options = dict(_split(o) for o in _OPTIONS.value)
    source = pathlib.Path(_SOURCE_DIR.value).expanduser() if _SOURCE_DIR.value else None
    builder = cohort.find_builder(_COHORT.value, data_dir=program.data_dir(), source_dir=source, **options)
    if builder.data_path.exists():
        print(f"already prepared: {builder.data_path}")
    builder.download_and_prepare()
    summary = json.loads((pathlib.Path(builder.data_path) / "cohort_report.json").read_text())
    for split, counts in summary["counts"].items():
        print(f"{split:12} {counts['scans']:6} scans of {counts['subjects']} subjects")
    skipped = summary["skipped_total"]
    print(f"{skipped} scans skipped{', each with its reason in cohort_report.json' if skipped else ''}")
    print(f"prepared: {builder.data_path}")


def _split(option: str) -> tuple[str, object]:
    """``"subjects=400"`` -> ``("subjects", 400)``."""
    from engine.config import UserError

    name, equals, value = option.partition("=")
    if not equals:
        raise UserError(f"--options: {option!r} is not name=value")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    program.run(main)
