"""SimBA: synthetic brains with a disease, and a bias that is planted on purpose.

A smooth random deformation warps a template brain into subjects; a disease deforms one region. A harmless bias deforms
another region, or changes the contrast of the image, and is more frequent in the diseased. Scenarios share every draw, split
and order of records; they differ only in the effect of the bias that is rendered:

  none       groups are assigned, nothing is rendered
  near       right putamen, beside the disease's right insula
  far        left postcentral gyrus
  intensity  contrast
  both       right putamen and contrast, in the same subjects
  multi      right putamen in the group ``bias``, contrast in a second, independent group ``intensity_bias``
  sites      no bias: people of 83 sites with 1 to 190 training scans each, most of them with one class only; every image
             shows one of 23 scanners, and the size of the brain depends on sex; neither says anything about disease

A ``counterfactual`` renders the test subjects of a scenario again with the bias flipped; in ``sites``, everyone as shown by
the first scanner.

Deformations of the user: ``velocity_model=pca,velocity_fields=FOLDER`` draws subjects and effects from the principal
components of the stationary velocity fields by which real subjects were registered to the template, with one NIfTI file for
each, all on the grid of the template's file (``fields`` describes these files). The first components, which together hold
``velocity_share`` of the variance, make a subject, ``v_S = mean + sum_k a_k sqrt(lambda_k) b_k``; an effect is ``mean + score
sqrt(lambda_1) b_1`` computed from the voxels of its region, smoothed by ``effect_width_mm``. Fits are kept in the data folder.

Effects with a given volume: ``local_model=volume`` grows a region along the normal of its surface until its volume in the
subject's image is ``1 + disease_volume x score`` times what it was (``bias_volume`` for the bias), within a thousandth. An
image that misses this is refused, and listed in the cohort report. Where the two regions touch, both volumes are met together:
there, the velocities of the disease differ a little between scenarios, but the volume of its region does not. It works with
either velocity model. At 1 mm, ``effect_width_mm=1.5`` gives SCAR's shell of 2 mm.

The design follows Stanley et al. 2023 (doi 10.1007/978-3-031-43895-0_46), 2024 (doi 10.1093/jamia/ocae165) and 2025
(eBioMedicine 111:105501). All volumes of a cohort lie on one grid; its affine stands in the metadata.
"""

import functools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from equipoise.data_builders.base import report
from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import Pixels, UnreadableScan
from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.data_builders.simba import sites as simba_sites
from equipoise.data_builders.simba.anatomy import Anatomy
from equipoise.data_builders.simba.config import (
    BIAS,
    SCANNER,
    SCENARIOS,
    SimbaConfig,
    flips,
    make_config,
    parse_config,
)
from equipoise.data_builders.simba.design import FRACTIONS, design_subjects
from equipoise.data_builders.simba.fields import VelocityFields
from equipoise.data_builders.simba.pca import PrincipalComponents
from equipoise.data_builders.simba.render import Renderer, Request
from equipoise.data_builders.simba.velocity import GaussianProcess, Pairing, VelocityModel
from equipoise.data_builders.simba.volume import LIMIT, Shell
from equipoise.engine.transforms.masks import encode_labels, encode_mask

_LISTED = [
    make_config(scenario=scenario, resolution=resolution, counterfactual=flip)
    for scenario in SCENARIOS
    for resolution in (1, 2, 3, 4, 8)
    for flip in (False, True)
    if flips(scenario) or not flip
]


class Simba(Cohort):
    """Synthetic brain MRI with a planted disease and bias (scenarios none, near, far, intensity, both, multi, sites)."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.1.0": "The same images; the metadata hold the whole label map."
    }
    BUILDER_CONFIGS = _LISTED
    FRACTIONS = FRACTIONS

    @classmethod
    def configure(cls, config: str, **options: Any) -> SimbaConfig:
        """Makes a configuration such as ``near_4mm`` with other settings; a setting is any field of :class:`SimbaConfig`."""
        return make_config(**parse_config(config) | options)

    @functools.cached_property
    def _anatomy(self) -> Anatomy:
        return self.builder_config.load_anatomy()

    def velocity_model(self) -> VelocityModel:
        """Makes the model of the velocities of subjects and effects; a cohort with another model overrides this."""
        config = self.builder_config
        process = GaussianProcess(
            subject_mm=config.subject_mm,
            length_mm=config.subject_length_mm,
            num_modes=config.num_modes,
            width_mm=config.effect_width_mm,
            local_model=config.local_model,
        )
        if config.velocity_model == "pca":
            subjects = PrincipalComponents(
                VelocityFields(config.field_files(), config.template_grid()),
                self._anatomy.affine,
                config.velocity_share,
                config.effect_width_mm,
                pathlib.Path(self._data_dir_root) / ".cache" / "velocity_models",
            )
        else:
            subjects = process
        shell = Shell(config.effect_width_mm)
        return Pairing(subjects, {"component": subjects, "volume": shell}.get(config.local_model, process))

    def schema(self) -> Schema:
        """Describes the label ``disease``, and as attributes the groups of bias or the sites, and the scores."""
        config, atlas = self.builder_config, self._anatomy.atlas
        # A file of names may hold a whole vocabulary, of which the label map uses only a part.
        names = {k: v for k, v in config.label_map_names.items() if not config.labels or (atlas == k).any()}
        scores = ["disease_score"] if config.has_sites else ["disease_score", "bias_score"]
        scores += ["subject_score"] * (config.variability == "shared_scalar")
        levels = simba_sites.LEVELS if config.has_sites else {}
        rule = (
            {"split_rule": {"unit": "subject", "design": "equipoise.data_builders.simba.sites"}}
            if config.has_sites
            else {}
        )
        return Schema(
            image_shape=(*self._anatomy.template.shape, 1),
            dtype=np.uint8,
            labels={"disease": ("absent", "present")},
            attributes=dict.fromkeys(config.biases, ("without", "with")) | levels | dict.fromkeys(scores),
            positive={"disease": "present"},
            metadata={
                "regions": {
                    name: encode_mask(self._anatomy.region(label))
                    for name, (label, _) in config.regions.items()
                },
                "region_names": {name: text for name, (_, text) in config.regions.items()},
                "label_map": {
                    "labels": encode_labels(atlas),
                    "names": {str(label): name for label, name in names.items()},
                    "marked": {name: label for name, (label, _) in config.regions.items()},
                },
                "affine": self._anatomy.affine.tolist(),
                "design": config.design(),
            }
            | rule,
        )

    def scans(self) -> Iterable[Scan]:
        """Lists every subject of the design, with draws that the scenarios share."""
        config = self.builder_config
        for subject in design_subjects(config):
            if config.counterfactual and subject.split != "test":
                continue
            carries = {name: subject.groups[name] != (name in config.flipped) for name in config.biases}
            attributes = {name: "with" if carried else "without" for name, carried in carries.items()}
            levels = dict(subject.levels)
            if SCANNER in config.flipped:
                levels |= simba_sites.scanned(simba_sites.SCANNERS[0])
            attributes |= levels | {"disease_score": subject.disease_score}
            if BIAS in carries:
                attributes["bias_score"] = subject.bias_score if carries[BIAS] else None
            if config.variability == "shared_scalar":
                attributes["subject_score"] = subject.subject_score
            yield Scan(
                scan_id=f"scan-{subject.number:05d}{'-flipped' if config.counterfactual else ''}",
                subject_id=f"subject-{subject.number:05d}",
                labels={"disease": "present" if subject.has_disease else "absent"},
                attributes=attributes,
                payload=Request(
                    subject,
                    frozenset(e for e, group in config.effects.items() if carries[group]),
                    levels.get(SCANNER, ""),
                ),
            )

    def assign_splits(self, scans: Sequence[Scan]) -> dict[str, str]:
        """Takes the splits of the design."""
        return {scan.subject_id: scan.payload.subject.split for scan in scans}

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the cohort as :meth:`Cohort.download_and_prepare` does; a velocity model of the user is fitted first.

        Raises:
          UserError: for a velocity field that cannot be used.
        """
        if not (pathlib.Path(self.data_path) / report.FILE).exists():
            _ = self._renderer  # before a progress bar is shown, and before anything is written
        super().download_and_prepare(**kwargs)

    @functools.cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.builder_config, self._anatomy, self.velocity_model())

    def load_all(self, scans: Sequence[Scan]) -> Iterator[tuple[Scan, Pixels | UnreadableScan]]:
        """Renders subjects in compiled batches; a subject whose deformation folds, or misses its volume, is refused."""
        spacing = np.full(3, self.builder_config.resolution, np.float32)
        rendered = self._renderer.render([scan.payload for scan in scans])
        for scan, result in zip(scans, rendered, strict=True):
            if not result.least_jacobian > 0:
                reason = f"deformation folds (least Jacobian determinant {result.least_jacobian:.3f})"
                yield scan, UnreadableScan(reason)
            elif not result.volume_error <= LIMIT:
                reason = f"a region misses its volume by {result.volume_error:.4f} of what it was"
                yield scan, UnreadableScan(reason)
            else:
                yield scan, Pixels(result.image[..., None], spacing, (1 / 255, 0.0))
