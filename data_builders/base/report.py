"""What a prepared cohort says of itself: how many scans and subjects every split has, by label and attribute."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.engine.vocabulary import UNKNOWN


def count(scans: Sequence[Scan], schema: Schema) -> dict[str, Any]:
    """Scans and subjects by level, and how many subjects carry two known levels of one label or attribute."""

    def levels(names: Iterable[str], field: str) -> dict[str, dict[str, int]]:
        return {
            k: dict(sorted(collections.Counter(str(getattr(s, field)[k]) for s in scans).items()))
            for k in names
        }

    words = [k for k, v in schema.attributes.items() if v is not None]
    classes = [k for k, v in schema.labels.items() if v is not None]
    inconsistent = {}
    for field, name in [*(("labels", k) for k in classes), *(("attributes", k) for k in words)]:
        seen: dict[str, set[str]] = collections.defaultdict(set)
        for scan in scans:
            value = getattr(scan, field)[name]
            if value != UNKNOWN:
                seen[scan.subject_id].add(value)
        inconsistent[f"{field}/{name}"] = sum(len(v) > 1 for v in seen.values())
    return {
        "scans": len(scans),
        "subjects": len({s.subject_id for s in scans}),
        "labels": levels(classes, "labels"),
        "attributes": levels(words, "attributes"),
        "subjects_with_two_levels": {k: n for k, n in inconsistent.items() if n},
    }
