"""The report of a prepared cohort: what was kept, by split, label and attribute, and what was skipped and why."""

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.engine.vocabulary import UNKNOWN

FILE = "cohort_report.json"  # beside the records of the dataset


def count(scans: Sequence[Scan], schema: Schema) -> dict[str, Any]:
    """Counts the scans of a split.

    Args:
      scans: that were kept, with missing values made explicit.
      schema: of the cohort.

    Returns:
      ``scans`` and ``subjects``: how many; ``labels`` and ``attributes``: name -> level -> number of scans, without those
      that are numbers; ``subjects_with_two_levels``: ``labels/NAME`` or ``attributes/NAME`` -> number of subjects whose
      scans have different known levels, where there are some.
    """
    names = {
        "labels": [name for name, classes in schema.labels.items() if classes is not None],
        "attributes": [name for name, levels in schema.attributes.items() if levels is not None],
    }
    counts: dict[str, Any] = {
        "scans": len(scans), "subjects": len({scan.subject_id for scan in scans}), "labels": {}, "attributes": {}
    }  # fmt: skip
    contradicted: dict[str, int] = {}
    for group, of_words in names.items():
        for name in of_words:
            numbers: collections.Counter[str] = collections.Counter()
            known: dict[str, set[str]] = collections.defaultdict(set)
            for scan in scans:
                level = str(getattr(scan, group)[name])
                numbers[level] += 1
                if level != UNKNOWN:
                    known[scan.subject_id].add(level)
            counts[group][name] = dict(sorted(numbers.items()))
            contradicted[f"{group}/{name}"] = sum(len(levels) > 1 for levels in known.values())
    return counts | {"subjects_with_two_levels": {k: n for k, n in contradicted.items() if n}}


def describe(content: Mapping[str, Any]) -> list[str]:
    """Returns the lines that tell a person what a report holds.

    Args:
      content: of the file :data:`FILE`.
    """
    margin, lines = " " * 13, []
    for split, counts in content["counts"].items():
        lines.append(f"{split:12} {counts['scans']:6} scans of {counts['subjects']} subjects")
        for name, number in counts["subjects_with_two_levels"].items():
            word = "WARNING" if name.startswith("attributes/") else "note"
            lines.append(f"{margin}{word}: {number} of these subjects have scans with different {name}")
        for structure, number in counts.get("scans_without", {}).items():
            if number:
                lines.append(f"{margin}note: {number} of these scans have no {structure}")
    for name, value in content["findings"].items():
        lines.append(f"{name.replace('_', ' ')}: {json.dumps(value)}")
    skipped = content["skipped_total"]
    lines.append(f"{skipped} scans skipped{f', each with its reason in {FILE}' if skipped else ''}")
    return lines
