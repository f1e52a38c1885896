"""A cohort of 8x8x8 volumes, made by the real builder: disease brightens one corner, sex another."""

import numpy as np

from data_builders.cohort import Cohort, Scan, Schema
from data_builders.readers import Pixels


class Tiny(Cohort):
    """Ninety subjects, some with two scans."""

    FRACTIONS = {"train": 0.5, "validation": 0.25, "test": 0.25}

    def schema(self):
        return Schema(
            image_shape=(8, 8, 8, 1),
            dtype=np.uint8,
            labels={"disease": ("absent", "present")},
            attributes={"sex": ("F", "M"), "age": None},
            positive={"disease": "present"},
        )

    def scans(self):
        for i in range(100):
            subject = i if i < 90 else i - 90
            disease = ("absent", "present")[subject % 2]
            sex = (None, "F", "M")[subject % 3] if subject % 10 == 0 else "FM"[subject // 2 % 2]
            yield Scan(
                f"scan-{i:03d}", f"subject-{subject:03d}", {"disease": disease}, {"sex": sex, "age": 40.0 + subject},
                stratum=disease, payload=i,
            )  # fmt: skip

    def load(self, scan):
        image = np.random.default_rng(scan.payload).integers(0, 120, (8, 8, 8, 1)).astype(np.uint8)
        image[:4, :4, :4] += 60 * (scan.labels["disease"] == "present")
        image[4:, 4:, 4:] += 60 * (scan.attributes["sex"] == "M")
        return Pixels(image, np.full(3, 2.0), (0.5, 1.0))
