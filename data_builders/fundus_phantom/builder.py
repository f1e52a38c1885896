"""The fundus phantom: drawn eyes with a disc, a cup and vessels, in which the design sets how hard each group is to segment.

Groups of race differ in three things: how far disc and cup stand out (contrast), how soft their edges are (blur), and how
large the cup is, and with it how thin the rim. Nothing else in an image depends on the person, so that any difference
between groups of another attribute is chance. Attributes and masks are those of Harvard-FairSeg: a study runs on either.

  standard   2,000 eyes of 128 pixels; in the group ``Black`` the rim stands out half as much, and less sharply
  demo       800 eyes of 64 pixels
  even       as standard, with every group as easy as ``White``: all differences are chance
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import Pixels
from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.data_builders.fundus_phantom.config import CONFIGS, FundusConfig, make_config
from equipoise.data_builders.fundus_phantom.design import FRACTIONS, design_subjects
from equipoise.data_builders.fundus_phantom.render import draw_eye
from equipoise.data_builders.harvard.fairseg import MASK_CLASSES, RATIOS, STRUCTURES
from equipoise.data_builders.harvard.family import ATTRIBUTES


class FundusPhantom(Cohort):
    """Synthetic fundus images with optic rim and cup, and groups of known difficulty (standard, demo, even)."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[FundusConfig]] = [make_config(base) for base in CONFIGS]
    FRACTIONS = FRACTIONS

    @classmethod
    def configure(cls, config: str, **options: Any) -> FundusConfig:
        """Makes a configuration such as ``demo`` with other settings; a setting is any field of :class:`FundusConfig`."""
        return make_config(config or "standard", **options)

    def schema(self) -> Schema:
        """Describes masks of rim and cup, the attributes of Harvard-FairSeg, and the drawn cup-to-disc ratio (0: no cup)."""
        config = self.builder_config
        return Schema(
            image_shape=(config.size, config.size, 1),
            dtype=np.uint8,
            labels={},
            attributes={name: field.levels or None for name, field in ATTRIBUTES.items()}
            | {"cup_to_disc": None},
            has_mask=True,
            metadata={
                "mask_classes": list(MASK_CLASSES),
                "structures": {k: list(v) for k, v in STRUCTURES.items()},
                "ratios": RATIOS,
                "design": config.design(),
            },
        )

    def scans(self) -> Iterable[Scan]:
        """Lists every subject of the design."""
        for subject in design_subjects(self.builder_config):
            yield Scan(
                scan_id=f"eye-{subject.number:05d}",
                subject_id=f"subject-{subject.number:05d}",
                labels={},
                attributes=dict(subject.recorded) | {"age": subject.age, "cup_to_disc": subject.cup},
                payload=subject,
            )

    def assign_splits(self, scans: Sequence[Scan]) -> dict[str, str]:
        """Takes the splits of the design."""
        return {scan.subject_id: scan.payload.split for scan in scans}

    def load(self, scan: Scan) -> Pixels:
        """Draws one eye."""
        image, mask = draw_eye(self.builder_config, scan.payload)
        return Pixels(image[..., None], np.ones(2, np.float32), (1 / 255, 0.0), mask)
