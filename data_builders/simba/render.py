"""The rendering of images from drawn subjects: compiled, in batches, with one program for all devices.

With T the template, psi = exp(-v_S) the map of the subject and g = exp(v_D + v_B) the effects in template space, the effect
in the space of the subject is psi^-1 ∘ g ∘ psi, and the image T ∘ psi ∘ (psi^-1 ∘ g ∘ psi) = T ∘ g ∘ psi: there is one
interpolation, and the effect is at the subject's own region. Velocities of disease and bias are summed before the
exponential, so that neither is applied first where they meet. Effects that are given by the volume of their region get their
amplitudes through the subject's own map (:mod:`equipoise.data_builders.simba.volume`).
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage

from equipoise.data_builders.simba import scanner as simba_scanner
from equipoise.data_builders.simba import volume as simba_volume
from equipoise.data_builders.simba.anatomy import Anatomy
from equipoise.data_builders.simba.config import SimbaConfig
from equipoise.data_builders.simba.design import SCORE_LIMIT, Subject
from equipoise.data_builders.simba.sites import SCANNERS, SEXES
from equipoise.data_builders.simba.velocity import VelocityModel, bounding_box, growth
from equipoise.engine import mesh
from equipoise.engine.rng import generator
from equipoise.engine.transforms import deformation
from equipoise.engine.transforms.intensity import contrast

# Grid of the subjects' smooth deformations. At 1 mm and in the roughest draws it errs by 0.07 voxel; 4 mm would by 0.15.
CONTROL_MM = 2
_MOST_VOXELS = 2**25  # rendered at once by one device: about 4 GB of its memory


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for one image.

    Attributes:
      subject: who is shown.
      shown: the effects of bias ("morphology", "intensity") that are rendered.
      scanner: in ``sites``: level of the scanner that shows the subject.
    """

    subject: Subject
    shown: frozenset[str]
    scanner: str = ""


@dataclasses.dataclass(frozen=True)
class Rendering:
    """One rendered image.

    Attributes:
      image: [d, h, w] uint8, 255 for the brightest voxel of the template.
      least_jacobian: smallest Jacobian determinant of the whole deformation; if it is not above 0, space folds.
      volume_error: largest difference between the volume of a region and its target, as a fraction of the subject's own
        volume; NaN where the search failed, 0 for effects without a target.
    """

    image: np.ndarray
    least_jacobian: float
    volume_error: float


@dataclasses.dataclass(frozen=True)
class _Patch:
    """Effects whose velocities are not zero in the same box of the grid.

    Attributes:
      origin: index of the first voxel of the box.
      names: "disease", "morphology".
      fields: [effect, mean and mode, 3, d, h, w], voxels.
    """

    origin: tuple[int, int, int]
    names: tuple[str, ...]
    fields: Float[np.ndarray, "e 2 3 d h w"]


class Renderer:
    """Renders the subjects of one cohort over this process's devices.

    Attributes:
      batch: number of images that are rendered at once.
    """

    def __init__(self, config: SimbaConfig, anatomy: Anatomy, model: VelocityModel):
        """Makes the velocity fields; the program is compiled at the first batch.

        Args:
          config: of the cohort.
          anatomy: the template and its regions.
          model: the source of velocities.

        Raises:
          UserError: for a region without a voxel.
        """
        shape = anatomy.template.shape
        self._config, self._shape = config, shape
        self._every = max(CONTROL_MM // config.resolution, 1)
        subject = model.subject(
            deformation.control_shape(shape, self._every), config.resolution * self._every
        )
        fields, regions = {}, {}
        for name in ("disease", "morphology") if "morphology" in config.effects else ("disease",):
            label = config.regions["disease" if name == "disease" else "bias"][0]
            regions[name] = anatomy.region(label)
            effect = model.effect(regions[name], config.resolution)
            fields[name] = np.float32(config.effect_size(name)) * np.stack([effect.mean, effect.modes[0]])
        self._patches = _patches(fields)
        self._num_modes = len(subject.modes)
        self._shared = {
            "template": anatomy.template,
            "mean": subject.mean,
            "modes": subject.modes,
            "patches": [patch.fields for patch in self._patches],
        }
        if config.has_sites and config.scanner_strength:
            self._shared["scanners"] = simba_scanner.signatures(
                generator(config.seed, "scanners"), config.scanner_strength
            )
        if config.has_sites and config.sex_size:
            self._shared["growth"] = (
                math.log1p(config.sex_size) / 6 * _outwards(anatomy.template, self._every)
            )
        if config.local_model == "volume":
            self._shared["controls"] = [_control(patch, regions, config) for patch in self._patches]
        runner = mesh.JitRunner()
        self._shared = runner.replicate(self._shared)
        self._render = runner.each(self._render_one)
        self.batch = runner.num_devices * max(min(16, _MOST_VOXELS // anatomy.template.size), 1)

    def _render_one(self, shared: dict[str, Any], drawn: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Renders one subject: (uint8 image, least Jacobian determinant, largest error of a region's volume)."""
        config, shape = self._config, self._shape
        key = jax.random.fold_in(jax.random.key(config.seed), drawn["number"])
        shape_key, noise_key = jax.random.split(key)
        if config.variability == "shared_scalar":
            amplitudes = jnp.broadcast_to(drawn["subject"], (self._num_modes,))
        else:
            amplitudes = jax.random.truncated_normal(
                shape_key, -SCORE_LIMIT, SCORE_LIMIT, (self._num_modes,), jnp.float32
            )
        velocity = shared["mean"] + jnp.tensordot(amplitudes, shared["modes"], 1)
        if "growth" in shared:
            velocity = velocity + drawn["sex"] * shared["growth"]
        subject = deformation.upsample(deformation.exponential(-velocity), shape, self._every)
        whole, points = subject, deformation.looks_at(subject)
        volume_error = jnp.zeros(())
        for index, (patch, fields) in enumerate(zip(self._patches, shared["patches"], strict=True)):
            amplitudes = [drawn["scores"][name] for name in patch.names]
            if config.local_model == "volume":
                amplitudes, error = simba_volume.find_amplitudes(
                    fields[:, 1],
                    shared["controls"][index],
                    jnp.stack(amplitudes),
                    jnp.stack([drawn["shown"][name] for name in patch.names]),
                    points,
                    patch.origin,
                )
                volume_error = jnp.maximum(volume_error, error)
            local = sum(
                drawn["shown"][name] * mean + amplitude * mode
                for name, amplitude, (mean, mode) in zip(patch.names, amplitudes, fields, strict=True)
            )
            effect = deformation.exponential(local, origin=patch.origin)
            whole = whole + deformation.sample(effect, points, patch.origin)
        image = deformation.warp(shared["template"], whole)
        if "intensity" in config.effects:
            image = jnp.where(drawn["shown"]["intensity"] > 0, contrast(image, config.contrast), image)
        if "scanners" in shared:
            signature = {name: values[drawn["scanner"]] for name, values in shared["scanners"].items()}
            image = simba_scanner.scan(image, signature, config.resolution)
        image = image + config.noise * jax.random.normal(noise_key, shape, jnp.float32)
        stored = jnp.clip(jnp.round(255 * image), 0, 255).astype(jnp.uint8)
        return stored, deformation.jacobian_determinant(whole).min(), volume_error

    def _dispatch(self, requests: Sequence[Request]) -> tuple[int, Any]:
        padded = [*requests, *[requests[-1]] * (self.batch - len(requests))]
        shown = {
            name: np.array([name in r.shown for r in padded], np.float32)
            for name in ("morphology", "intensity")
        } | {"disease": np.ones(len(padded), np.float32)}
        scores = {
            "disease": np.array([r.subject.disease_score for r in padded], np.float32),
            "morphology": np.array([r.subject.bias_score for r in padded], np.float32) * shown["morphology"],
        }
        drawn = {
            "number": np.array([r.subject.number for r in padded], np.int32),
            "subject": np.array([r.subject.subject_score for r in padded], np.float32),
            "scores": scores,
            "shown": shown,
        }
        if self._config.has_sites:
            drawn["scanner"] = np.array([SCANNERS.index(r.scanner) for r in padded], np.int32)
            drawn["sex"] = np.array(
                [2 * SEXES.index(r.subject.levels["sex"]) - 1 for r in padded], np.float32
            )
        return len(requests), self._render(self._shared, drawn)

    def render(self, requests: Sequence[Request]) -> Iterator[Rendering]:
        """Yields the images in order; a batch is rendered while the one before it is used."""
        starts = range(0, len(requests), self.batch)
        batches: Iterable[Any] = (self._dispatch(requests[start : start + self.batch]) for start in starts)
        for count, outputs in mesh.prefetch(batches, place=lambda batch: batch, ahead=1):
            for image, jacobian, error in zip(*(np.asarray(x)[:count] for x in outputs), strict=True):
                yield Rendering(image, float(jacobian), float(error))


def _control(
    patch: _Patch, regions: dict[str, Bool[np.ndarray, "d h w"]], config: SimbaConfig
) -> simba_volume.Control:
    """Computes the volumes that the regions of a patch should have."""
    box = tuple(slice(a, a + n) for a, n in zip(patch.origin, patch.fields.shape[3:], strict=True))
    cut = [regions[name][box] for name in patch.names]
    slopes = [growth(mode, region) for (_, mode), region in zip(patch.fields, cut, strict=True)]
    steps = [config.volume_step(name) for name in patch.names]
    return simba_volume.Control(*(np.array(values, np.float32) for values in (cut, slopes, steps)))


def _outwards(template: Float[np.ndarray, "d h w"], every: int) -> Float[np.ndarray, "3 i j k"]:
    """Computes the velocity, in steps of the control grid, at which the brain grows by a factor e in unit time.

    It points away from the brain's centre of mass.
    """
    grid = np.indices(deformation.control_shape(template.shape, every), np.float32)
    centre = np.array(ndimage.center_of_mass(template), np.float32) / every
    return grid - centre[:, None, None, None]


def _patches(fields: dict[str, Float[np.ndarray, "2 3 d h w"]]) -> list[_Patch]:
    """Cuts fields to the boxes outside which they are zero; fields whose boxes overlap share one.

    Velocities in separate boxes have separate exponentials, and their displacements add up.
    """
    groups = []
    for name, field in fields.items():
        inside = field.any((0, 1))
        if inside.any():
            groups.append(([name], _box(inside)))
    while pair := next((p for p in itertools.combinations(groups, 2) if _overlap(p[0][1], p[1][1])), None):
        (names, box), (more, other) = pair
        groups = [g for g in groups if g is not pair[0] and g is not pair[1]]
        groups.append((names + more, np.stack([np.minimum(box[0], other[0]), np.maximum(box[1], other[1])])))
    patches = []
    for names, (low, high) in groups:
        cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        stacked = np.stack([fields[name][(slice(None), slice(None), *cut)] for name in names])
        patches.append(_Patch(tuple(low.tolist()), tuple(names), stacked))
    return patches


def _box(inside: Bool[np.ndarray, "d h w"]) -> Int[np.ndarray, "2 3"]:
    """Returns the first and the past-the-last index of the True voxels with one voxel around them, within the grid."""
    box = bounding_box(inside)
    low, high = np.array([s.start for s in box]) - 1, np.array([s.stop for s in box]) + 1
    # With a voxel of zeros all around, values beyond the edge are zero too, and nothing flows out.
    return np.stack([np.maximum(low, 0), np.minimum(high, inside.shape)])


def _overlap(a: Int[np.ndarray, "2 3"], b: Int[np.ndarray, "2 3"]) -> bool:
    return bool(((a[0] < b[1]) & (b[0] < a[1])).all())
