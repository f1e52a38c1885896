"""The vessels of a fundus: arteries and veins that leave the disc, arch around the macula and branch twice.

Lengths are shares of the image's side. A point of a path is (x, y) with y downwards; the disc is at the origin, and the
macula at positive x.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

# Control points after the origin, for trunks below the disc: the temporal arcade, the nasal arcade, a macular twig.
_COURSES = np.array(
    [
        [[0.02, 0.15], [0.12, 0.36], [0.56, 0.42]],
        [[-0.02, 0.14], [-0.10, 0.30], [-0.34, 0.58]],
        [[0.05, 0.06], [0.16, 0.11], [0.36, 0.09]],
    ]
)
_WIDTHS = np.array([1.0, 0.65, 0.4])  # of the courses
_KINDS = ((0.0062, 0.75), (0.0082, 1.0))  # radius and darkness of an artery and of a vein
# Number for each parent, length, and width as a share of the parent's.
_BRANCHES, _TWIGS = (3, 0.3, 0.6), (2, 0.14, 0.7)
_STEPS = 1.4  # steps per pixel of a path's usual length


@dataclasses.dataclass(frozen=True)
class _Paths:
    """Vessels of one rank.

    Attributes:
      points: [vessel, step, 2].
      radius: [vessel, step].
      darkness: [vessel], 1 for a vein.
    """

    points: Float[np.ndarray, "n s 2"]
    radius: Float[np.ndarray, "n s"]
    darkness: Float[np.ndarray, " n"]


def draw_vessels(
    draws: np.random.Generator, size: int, centre: Float[np.ndarray, "2"], temporal: float
) -> Float[np.ndarray, "h w"]:
    """Draws the share of the light that vessels absorb in each pixel: 0 is none, 1 is as much as the middle of a large vein.

    Args:
      draws: random draws of the subject.
      size: pixels along a side.
      centre: row and column of the disc, as shares of the image's side.
      temporal: 1 where the macula is at larger columns, -1 in the other eye.
    """
    trunks = _trunks(draws, size)
    branches = _offshoots(draws, trunks, *_BRANCHES, size)
    twigs = _offshoots(draws, branches, *_TWIGS, size)
    canvas = np.zeros((size, size), np.float32)
    for paths in (trunks, branches, twigs):
        place = np.stack([paths.points[..., 1], temporal * paths.points[..., 0]], -1) + centre
        darkness = np.broadcast_to(paths.darkness[:, None], paths.radius.shape)
        _stamp(canvas, place.reshape(-1, 2) * size - 0.5, paths.radius.ravel() * size, darkness.ravel())
    return canvas


def _trunks(draws: np.random.Generator, size: int) -> _Paths:
    control = np.concatenate([_COURSES * [1, side] for side in (-1, 1) for _ in _KINDS])
    control += 0.025 * draws.normal(size=control.shape) * np.array([0.6, 1, 1.6])[:, None]
    origin = 0.012 * draws.normal(size=(len(control), 1, 2)) - [0.02, 0]
    s = np.linspace(0, 1, int(_STEPS * size))
    bernstein = np.stack([(1 - s) ** 3, 3 * s * (1 - s) ** 2, 3 * s**2 * (1 - s), s**3])
    points = np.einsum("ks,tkc->tsc", bernstein, np.concatenate([origin, control], 1))
    radius = np.concatenate([_WIDTHS * radius for _ in (-1, 1) for radius, _ in _KINDS])
    darkness = np.repeat([darkness for _ in (-1, 1) for _, darkness in _KINDS], len(_COURSES))
    return _Paths(_winding(draws, points, s), radius[:, None] * (1 - 0.5 * s), darkness)


def _offshoots(
    draws: np.random.Generator, parents: _Paths, count: int, length: float, width: float, size: int
) -> _Paths:
    """Draws the branches of every path, alternately to either side, bent back towards its course."""
    num, steps = parents.radius.shape
    at = 0.15 + 0.75 * (np.arange(count) + 0.5 + draws.uniform(-0.3, 0.3, (num, count))) / count
    root = np.arange(num)[:, None], (at * (steps - 1)).astype(int)
    heading = _unit(np.gradient(parents.points, axis=1)[root])
    side = (-1.0) ** (np.arange(count) + np.arange(num)[:, None])
    angle = (side * draws.uniform(0.5, 1.1, side.shape))[..., None]
    start = np.cos(angle) * heading + np.sin(angle) * _turned(heading)
    reach = length * draws.uniform(0.6, 1.3, side.shape)
    bend = -side * reach * draws.uniform(0.1, 0.5, side.shape)
    s = np.linspace(0, 1, int(_STEPS * 1.4 * length * size))
    along, aside = s[:, None] * start[..., None, :], s[:, None] ** 2 * _turned(start)[..., None, :]
    course = reach[..., None, None] * along + bend[..., None, None] * aside
    points = (parents.points[root][..., None, :] + course).reshape(num * count, len(s), 2)
    radius = width * parents.radius[root].reshape(-1, 1) * (1 - 0.5 * s)
    return _Paths(_winding(draws, points, s), radius, np.repeat(parents.darkness, count))


def _winding(draws: np.random.Generator, points: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Makes paths wind about their course, less so where they begin."""
    phase, turns, height = draws.uniform(size=(3, len(points), 1))
    wave = 0.008 * height * np.minimum(4 * s, 1) * np.sin(2 * np.pi * ((1 + 2 * turns) * s + phase))
    return points + wave[..., None] * _turned(_unit(np.gradient(points, axis=1)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _turned(vectors: np.ndarray) -> np.ndarray:
    return np.stack([-vectors[..., 1], vectors[..., 0]], -1)


def _stamp(canvas: np.ndarray, centre: np.ndarray, radius: np.ndarray, darkness: np.ndarray) -> None:
    """Presses a soft disc onto the canvas at every point; where several discs meet, the darkest counts."""
    size, reach = len(canvas), int(np.ceil(radius.max())) + 1
    near = ((centre > -reach) & (centre < size + reach)).all(1)
    centre, radius, darkness = centre[near].astype(np.float32), radius[near], darkness[near]
    middle = np.rint(centre).astype(np.int32)
    padded = np.zeros((size + 4 * reach + 1,) * 2, np.float32)
    for offset in np.ndindex(2 * reach + 1, 2 * reach + 1):
        pixel = middle + np.array(offset) - reach
        pressed = darkness * np.clip(radius + 0.5 - np.hypot(*(pixel - centre).T), 0, 1)
        rows, columns = (pixel + 2 * reach).T
        np.maximum.at(padded.reshape(-1), rows * len(padded) + columns, pressed.astype(np.float32))
    inner = slice(2 * reach, 2 * reach + size)
    np.maximum(canvas, padded[inner, inner], out=canvas)
