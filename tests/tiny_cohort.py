"""Cohorts made in a moment by the real builder: labels of volumes, and masks of pictures and volumes."""

import numpy as np

from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import Pixels
from equipoise.data_builders.base.schema import Scan, Schema


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


class TinyMasks(Cohort):
    """Forty subjects: a bright disc with a brighter cup in 12 x 10 pixels, or in as many planes; sex dims the cup; some have neither."""

    FRACTIONS = {"train": 0.4, "validation": 0.3, "test": 0.3}
    PLANES = ()

    def schema(self):
        return Schema(
            image_shape=(*self.PLANES, 12, 10, 1),
            dtype=np.uint8,
            labels={},
            attributes={"sex": ("F", "M")},
            has_mask=True,
            metadata={
                "mask_classes": ["background", "rim", "cup"],
                "structures": {"rim": ["rim"], "cup": ["cup"], "disc": ["rim", "cup"]},
                "ratios": {
                    "vertical_cup_to_disc": {"kind": "extent", "axis": len(self.PLANES), "of": "cup", "to": "disc"},
                    "area_cup_to_disc": {"kind": "area", "of": "cup", "to": "disc"},
                },
            },
        )  # fmt: skip

    def scans(self):
        for i in range(40):
            sex, has_none = (None, "F", "M")[i % 9 and 1 + i % 2], i % 7 == 0
            yield Scan(
                f"scan-{i:03d}", f"subject-{i:03d}", {}, {"sex": sex}, f"{sex} {has_none}", (i, has_none)
            )

    def load(self, scan):
        number, has_none = scan.payload
        rng = np.random.default_rng(number)
        size = (*self.PLANES, 12, 10)
        places = np.indices(size).T
        centre = np.array(size) / 2 - 0.5 + rng.uniform(-1, 1, len(size))
        far = np.linalg.norm(places - centre, axis=-1).T
        mask = (far < 4).astype(np.uint8) + (far < rng.uniform(1.5, 3))
        mask *= not has_none
        image = np.array([40, 120, 200 - 50 * (scan.attributes["sex"] == "F")])[mask] + rng.normal(
            0, 15, size
        )
        spacing = np.array((3.0, 2.0, 0.5)[-len(size) :])
        return Pixels(np.clip(image, 0, 255).astype(np.uint8)[..., None], spacing, mask=mask.astype(np.uint8))


class TinyMaskVolumes(TinyMasks):
    """The same in 3D."""

    PLANES = (6,)
