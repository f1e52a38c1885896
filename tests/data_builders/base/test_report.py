import numpy as np

from equipoise.data_builders import Scan, Schema
from equipoise.data_builders.base import report

SCHEMA = Schema(
    (2, 2, 1), np.uint8, labels={"disease": ("no", "yes")}, attributes={"sex": ("F", "M"), "age": None}
)


def scan(number, subject, disease, sex):
    return Scan(f"s{number}", subject, {"disease": disease}, {"sex": sex, "age": 40.0})


def test_counts_by_hand():
    scans = [
        scan(1, "a", "yes", "F"),
        scan(2, "a", "no", "F"),
        scan(3, "b", "no", "M"),
        scan(4, "b", "no", "unknown"),
        scan(5, "c", "no", "unknown"),
    ]
    assert report.count(scans, SCHEMA) == {
        "scans": 5,
        "subjects": 3,
        "labels": {"disease": {"no": 4, "yes": 1}},
        "attributes": {"sex": {"F": 2, "M": 1, "unknown": 2}},
        "subjects_with_two_levels": {"labels/disease": 1},
    }


def test_the_report_in_words():
    counts = {
        "scans": 5, "subjects": 3, "subjects_with_two_levels": {"labels/disease": 1, "attributes/sex": 2},
        "scans_without": {"cup": 3, "disc": 0},
    }  # fmt: skip
    content = {"counts": {"train": counts}, "findings": {"age_unit": "days"}, "skipped_total": 2}
    assert report.describe(content) == [
        "train             5 scans of 3 subjects",
        "             note: 1 of these subjects have scans with different labels/disease",
        "             WARNING: 2 of these subjects have scans with different attributes/sex",
        "             note: 3 of these scans have no cup",
        'age unit: "days"',
        "2 scans skipped, each with its reason in cohort_report.json",
    ]
