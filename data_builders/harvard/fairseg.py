"""Harvard-FairSeg: 10,000 scanning-laser fundus images with the rim and cup of the optic disc, and six attributes.

The data set of Tian et al., ICLR 2024 (arXiv 2311.02189); CC BY-NC-ND 4.0, on request from the Harvard Ophthalmology AI
Lab. The builder reads all forms of the files: the documented release, the keys that the authors' code reads, the first
release, and Harvard-FairDomain, which adds an en-face OCT image (``harvard_fairseg/oct``).

The authors publish no validation set. Ours is a tenth of the training people, balanced by attributes. The lists of their
repository (``lists/FairSeg_final``: 8,000 and 2,000) and the folders ``Training`` and ``Test`` of a later download are
different splits; the metadata say which one was used.
"""

from typing import ClassVar

import tensorflow_datasets as tfds

from equipoise.data_builders.harvard.family import Harvard, HarvardConfig

MASK_CLASSES = ("background", "rim", "cup")
STRUCTURES = {"rim": ("rim",), "cup": ("cup",), "disc": ("rim", "cup")}
RATIOS = {
    "cup_to_disc_area": {"kind": "area", "of": "cup", "to": "disc"},
    "cup_to_disc_vertical": {"kind": "extent", "of": "cup", "to": "disc", "axis": 0},
}


class HarvardFairseg(Harvard):
    """Harvard-FairSeg: fundus images with optic rim and cup, six attributes (--source_dir: folder of its NPZ files)."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[HarvardConfig]] = [
        HarvardConfig(name="slo", modality="slo"),
        HarvardConfig(name="oct", modality="oct"),
    ]
    IMAGES: ClassVar = {"slo": ("slo_fundus", "fundus_slo", "fundus"), "oct": ("fundus_oct",)}
    MASKS: ClassVar = {
        "slo": ("disc_cup_mask", "disc_cup", "disc_cup_borders", "slo_disc_cup"),
        "oct": ("oct_disc_cup",),
    }
    MASK_CLASSES = MASK_CLASSES
    STRUCTURES = STRUCTURES
    RATIOS = RATIOS
    LISTS = ("lists/FairSeg_final", ".")
