"""Images per second of the SimBA generator, against the same images made with SimpleITK on the same cores.

    python benchmarks/simba_generate.py [--resolution=1] [--rounds=5] [--clock=wall] [--breakdown]

The grid is that of Stanley et al. 2023, 173 x 211 x 155 voxels of 1 mm (or as many of another size as fill it), the brain
MNI152. Both sides get the same velocity fields and scores of the same subjects: a subject's smooth one on control points
every 2 mm, and those of the disease and the bias on their box. Both exponentiate them by scaling and squaring, compose
subject and effects on the whole grid, interpolate the template once, add noise, store bytes and look for folds. What
SimpleITK makes is compared with ours, noise apart, before the clock starts: beyond the limits below the program stops.

The peer takes the fastest forms that SimpleITK has for this, with all threads: transforms composed into one displacement field
(squarings included; Warp and Add take as long), one Warp for the image. Both sides run in turns. ``--clock=cpu`` counts
processor seconds of all threads instead: what to look at on a machine that others use too. Where JAX has an accelerator,
ours runs there and SimpleITK on the CPU. ``ratio`` of the closing line is our time over SimpleITK's.

On two cores at 1 mm: ours 0.43 s an image, SimpleITK 1.05 (processor seconds 0.75 and 1.94). Half of ours goes into composing
on the whole grid, where both take the same: three gathers of eight corners at every voxel, most of which no effect
reaches. Interpolating in vectors makes the other maps three to nine times as fast as ITK's points one by one; our noise,
counter-based and the same on every device, is slower than theirs.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # as a program: the project is above

from benchmarks import common
from equipoise.data_builders.simba.anatomy import Anatomy, load_mni152
from equipoise.data_builders.simba.config import SimbaConfig, make_config
from equipoise.data_builders.simba.design import SCORE_LIMIT, Subject, design_subjects
from equipoise.data_builders.simba.render import CONTROL_MM, Renderer, Request
from equipoise.data_builders.simba.velocity import GaussianProcess, bounding_box
from equipoise.engine.transforms import deformation

PAPER = (173, 211, 155)  # mm
SQUARINGS = 6
# ITK takes what lies outside a field to be zero, ours goes on with the edge's value: compared is where no
# flow from there comes. Limits of the difference there, in grey levels of 255.
BORDER_MM, MOST, MEAN = 16, 1, 0.001


def paper_grid(resolution: int) -> Anatomy:
    """MNI152 on the paper's grid, the outermost voxels black, so that both sides agree on what is outside."""
    anatomy = load_mni152(resolution)
    fields = [anatomy.template, anatomy.atlas]
    for axis, length in enumerate(PAPER):
        want, have = round(length / resolution), fields[0].shape[axis]
        first = max((have - want) // 2 + 1, 0)
        kept = slice(first, first + min(want - 2, have))
        before = (want - min(want - 2, have)) // 2
        after = want - min(want - 2, have) - before
        fields = [
            np.pad(f[(slice(None),) * axis + (kept,)], [(before, after) if i == axis else (0, 0) for i in range(3)])
            for f in fields
        ]  # fmt: skip
    return Anatomy(*fields, anatomy.affine)


@dataclasses.dataclass(frozen=True)
class Fields:
    """The velocity fields that both sides start from.

    Attributes:
      every: voxels between the control points of the subjects' field.
      modes: [mode, 3, i, j, k] of subjects, steps of the control grid.
      origin: first voxel of the box that holds both effects.
      effects: [disease and bias, 3, d, h, w] on the box, voxels.
    """

    every: int
    modes: np.ndarray
    origin: tuple[int, int, int]
    effects: np.ndarray

    @classmethod
    def make(cls, config: SimbaConfig, anatomy: Anatomy, model: GaussianProcess) -> "Fields":
        """Those that the renderer makes of the same model."""
        every = max(CONTROL_MM // config.resolution, 1)
        shape = anatomy.template.shape
        modes = model.subject(deformation.control_shape(shape, every), config.resolution * every).modes
        effects = np.stack(
            [
                np.float32(amplitude) * model.effect(anatomy.region(label), config.resolution).modes[0]
                for amplitude, (label, _) in zip(
                    (config.disease_mm, config.bias_mm), config.regions.values(), strict=True
                )
            ]
        )
        # With a voxel of zeros around, as in the renderer.
        box = [
            slice(max(s.start - 1, 0), min(s.stop + 1, n))
            for s, n in zip(bounding_box(effects.any((0, 1))), shape, strict=True)
        ]
        return cls(every, modes, tuple(s.start for s in box), effects[(..., *box)])


def scores(config: SimbaConfig, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """A subject's amplitudes of the modes, as the renderer draws them, and those of the effects."""
    key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), subject.number))[0]
    drawn = jax.random.truncated_normal(key, -SCORE_LIMIT, SCORE_LIMIT, (config.num_modes,), jnp.float32)
    return np.asarray(drawn), np.float32([subject.disease_score, subject.bias_score])


class Peer:
    """The generator in SimpleITK; every stage takes what the one before gave.

    ITK's axes and components run the other way: (w, h, d). One unit is a voxel of the full grid.
    """

    def __init__(self, template: np.ndarray, fields: Fields, noise: float):
        self._sitk = common.require("SimpleITK")
        self._template = self._sitk.GetImageFromArray(template)
        self._modes, self._effects = (
            np.ascontiguousarray(np.moveaxis(f[:, ::-1], 1, -1)) for f in (fields.modes, fields.effects)
        )
        self._every, self._noise = fields.every, noise
        self._origin = [float(start) for start in reversed(fields.origin)]

    def _exponential(self, velocity: np.ndarray, spacing: float, origin: Sequence[float]) -> object:
        """exp(velocity) as a transform, which ITK keeps in float64."""
        sitk = self._sitk
        field = sitk.GetImageFromArray(velocity.astype(np.float64) / 2**SQUARINGS, isVector=True)
        field.SetSpacing([spacing] * 3)
        field.SetOrigin(origin)
        geometry = field.GetSize(), origin, field.GetSpacing()
        for _ in range(SQUARINGS):
            step = sitk.DisplacementFieldTransform(field)  # takes the image, copies nothing
            twice = sitk.CompositeTransform([step, step])
            field = sitk.TransformToDisplacementField(twice, sitk.sitkVectorFloat64, *geometry)
        return sitk.DisplacementFieldTransform(field)

    def subject(self, amplitudes: np.ndarray) -> object:
        """The subject's map, on its control points."""
        velocity = np.einsum("k,k...->...", amplitudes, self._modes)  # on small grids BLAS takes longer
        return self._exponential(-self._every * velocity, self._every, [0.0] * 3)

    def effects(self, amplitudes: np.ndarray) -> object:
        """The map of both effects, on their box; outside of it a point stays."""
        velocity = np.einsum("k,k...->...", amplitudes, self._effects)
        return self._exponential(velocity, 1.0, self._origin)

    def composed(self, subject: object, effects: object) -> object:
        """The displacement of effects ∘ subject on the whole grid; a composite applies its last first."""
        both = self._sitk.CompositeTransform([effects, subject])
        size = self._template.GetSize()
        return self._sitk.TransformToDisplacementField(both, self._sitk.sitkVectorFloat32, size)

    def warped(self, displacement: object) -> object:
        """The template, interpolated once."""
        return self._sitk.Warp(self._template, displacement)

    def stored(self, image: object, number: int) -> np.ndarray:
        """Bytes, after noise."""
        sitk = self._sitk
        if self._noise:
            image = sitk.AdditiveGaussianNoise(image, self._noise, 0.0, number)
        return sitk.GetArrayFromImage(sitk.Clamp(255 * image + 0.5, sitk.sitkUInt8, 0, 255))

    def least_jacobian(self, displacement: object) -> float:
        """Smallest determinant of the grid."""
        found = self._sitk.DisplacementFieldJacobianDeterminant(displacement)
        return float(self._sitk.GetArrayViewFromImage(found).min())

    def render(self, drawn: tuple[np.ndarray, np.ndarray], number: int) -> tuple[np.ndarray, float]:
        """One subject: image and least Jacobian determinant."""
        displacement = self.composed(self.subject(drawn[0]), self.effects(drawn[1]))
        return self.stored(self.warped(displacement), number), self.least_jacobian(displacement)


def check(config: SimbaConfig, ours: Renderer, peer: Peer, requests: list[Request]) -> None:
    """Prints how far images without noise are apart; ends the program where that is too far."""
    border = -(-BORDER_MM // config.resolution)
    inner = (slice(border, -border),) * 3
    for request, found in zip(requests, ours.render(requests), strict=True):
        image, jacobian = peer.render(scores(config, request.subject), request.subject.number)
        apart = np.abs(found.image.astype(int) - image)
        most, mean = apart[inner].max(), apart[inner].mean()
        print(
            f"subject {request.subject.number}: images differ by {most} grey levels at most, {mean:.4f} in the mean "
            f"({BORDER_MM} mm from the border; {apart.mean():.4f} on all of the grid); least Jacobian determinant "
            f"{found.least_jacobian:.4f} and {jacobian:.4f}",
            flush=True,
        )
        if most > MOST or mean > MEAN:
            sys.exit(f"not the same work: at most {MOST} levels and {MEAN} in the mean are allowed")


def breakdown(
    fields: Fields, template: np.ndarray, noise: float, peer: Peer, drawn: tuple, timed: Callable
) -> None:
    """Prints milliseconds of every stage; ours are compiled alone here, and the one program may take less than their sum."""
    shape, origin = template.shape, fields.origin

    @jax.jit
    def composed(subject: jax.Array, effect: jax.Array) -> jax.Array:
        fine = deformation.upsample(subject, shape, fields.every)
        return fine + deformation.sample(effect, deformation.looks_at(fine), origin)

    @jax.jit
    def stored(image: jax.Array, number: int) -> jax.Array:
        noisy = image + noise * jax.random.normal(jax.random.key(number), shape, jnp.float32)
        return jnp.clip(jnp.round(255 * noisy), 0, 255).astype(jnp.uint8)

    subject = jax.jit(lambda a, modes: deformation.exponential(-jnp.tensordot(a, modes, 1), SQUARINGS))
    effects = jax.jit(lambda a, modes: deformation.exponential(jnp.tensordot(a, modes, 1), SQUARINGS, origin))
    least_jacobian = jax.jit(lambda u: deformation.jacobian_determinant(u).min())
    warped = jax.jit(deformation.warp)

    of_subject, of_effects = (drawn[0], jnp.asarray(fields.modes)), (drawn[1], jnp.asarray(fields.effects))
    maps = subject(*of_subject), effects(*of_effects)
    whole, brain = composed(*maps), jnp.asarray(template)
    image = warped(brain, whole)
    its_maps = peer.subject(drawn[0]), peer.effects(drawn[1])
    its_whole = peer.composed(*its_maps)
    its_image = peer.warped(its_whole)
    stages = {
        "subject": (subject, of_subject, peer.subject, drawn[:1]),
        "effects": (effects, of_effects, peer.effects, drawn[1:]),
        "composed on the grid": (composed, maps, peer.composed, its_maps),
        "warp": (warped, (brain, whole), peer.warped, (its_whole,)),
        "noise, bytes": (stored, (image, 0), peer.stored, (its_image, 0)),
        "Jacobian": (least_jacobian, (whole,), peer.least_jacobian, (its_whole,)),
    }
    print(f"{'milliseconds of one image':28s}{'ours':>10s}{'SimpleITK':>12s}")
    for name, (mine, given, its, its_given) in stages.items():
        times = timed({"ours": functools.partial(mine, *given), "peer": functools.partial(its, *its_given)})
        print(f"  {name:26s}{1e3 * times['ours']:10.1f}{1e3 * times['peer']:12.1f}", flush=True)


def main() -> None:
    """Prints the check, the rates and the closing line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=1, help="mm of a voxel's side")
    parser.add_argument("--rounds", type=int, default=5, help="timed batches of each side, taken in turns")
    parser.add_argument("--clock", choices=list(common.CLOCKS), default="wall", help="seconds of what")
    parser.add_argument("--breakdown", action="store_true", help="time every stage alone, too")
    args = parser.parse_args()
    sitk = common.require("SimpleITK")
    anatomy, model = paper_grid(args.resolution), GaussianProcess()
    config = make_config(scenario="near", resolution=args.resolution)
    quiet = dataclasses.replace(config, noise=0.0)
    fields = Fields.make(config, anatomy, model)
    grid = "x".join(map(str, anatomy.template.shape))
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    print(
        f"{common.machine()}; SimpleITK {sitk.Version.VersionString()} with {threads} threads; {common.load()}"
    )
    print(f"{grid} voxels of {args.resolution} mm, effects on {'x'.join(map(str, fields.effects.shape[2:]))}")

    ours = Renderer(config, anatomy, model)
    count = ours.batch
    requests = [Request(s, frozenset(["morphology"])) for s in design_subjects(config)[:count]]
    drawn = [scores(config, r.subject) for r in requests]
    check(config, Renderer(quiet, anatomy, model), Peer(anatomy.template, fields, 0.0), requests[:2])
    peer = Peer(anatomy.template, fields, config.noise)
    timed = functools.partial(common.fastest, rounds=args.rounds, clock=common.CLOCKS[args.clock])
    start = time.perf_counter()
    list(ours.render(requests))
    print(f"ours compiled and called once in {time.perf_counter() - start:.1f} s", flush=True)
    found = timed(
        {
            "ours": lambda: list(ours.render(requests)),
            "SimpleITK": lambda: [peer.render(d, i) for i, d in enumerate(drawn)],
        }
    )
    for name, seconds in found.items():
        print(
            f"  {name:10s} {count / seconds:8.2f} images per second ({args.clock}), {seconds / count:.4f} s an image"
        )
    if args.breakdown:
        breakdown(fields, anatomy.template, config.noise, peer, drawn[0], timed)
    print(common.load())
    common.report(
        f"simba_generate: {grid} vs SimpleITK",
        found["ours"] / count,
        found["SimpleITK"] / count,
        f"{args.clock} seconds per image",
    )


if __name__ == "__main__":
    main()
