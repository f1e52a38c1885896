"""The images of the fundus phantom: a mottled background, nerve fibres, a disc, its cup, vessels over them, and noise.

An image is ``(background + contrast (disc_step D + cup_step C)) (1 - vessels V) + noise``, where D and C are 1 inside the
disc and the cup, 0 outside, and fall off as the integral of a Gaussian at their edges. Every draw is a function of (seed,
subject) alone: two cohorts that differ in a group's difficulty hold the same eyes.
"""

import functools

import numpy as np
from jaxtyping import Float, UInt8
from scipy.special import ndtr

from equipoise.data_builders.fundus_phantom.config import FundusConfig
from equipoise.data_builders.fundus_phantom.design import Subject
from equipoise.data_builders.fundus_phantom.vessels import draw_vessels
from equipoise.engine import rng

_MARGIN = 0.04  # between the edges of cup and disc, as a share of the disc's radius
# Patches of the background: their number along a side, and their share of its standard deviation (the squares sum to 1).
_GRAINS = ((5, 0.6), (13, 0.5), (40, 0.62))
_FIBRES = np.array([17, 23, 29, 37, 43, 53])  # how often the layer of nerve fibres waves around the disc
_BRIGHTNESS = (0.36, 0.46)


class Ellipse:
    """The place of every pixel relative to an ellipse.

    Attributes:
      reach: [h, w], distance from the middle, in radii: 1 on the edge.
      distance: [h, w], distance from the edge (to first order), negative inside, as a share of the image's side.
    """

    def __init__(self, down: np.ndarray, right: np.ndarray, height: float, width: float, tilt: float):
        """Measures every pixel. All lengths are shares of the image's side.

        Args:
          down: [h, w], distance below the middle of the ellipse.
          right: [h, w], distance to the right of it.
          height: radius along the rows, before the tilt.
          width: radius along the columns, before the tilt.
          tilt: radians.
        """
        along = np.cos(tilt) * down + np.sin(tilt) * right
        across = np.cos(tilt) * right - np.sin(tilt) * down
        self.reach = np.hypot(along / height, across / width)
        slope = np.hypot(along / height**2, across / width**2) / np.maximum(self.reach, 1e-6)
        self.distance = (self.reach - 1) / np.maximum(slope, 1 / max(height, width))


def draw_eye(
    config: FundusConfig, subject: Subject
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Draws one image, and its mask of 0 background, 1 rim, 2 cup."""
    size, looks = config.size, config.difficulty(subject.group)
    place, shape, noise = (_draws(config, subject, part) for part in ("place", "shape", "noise"))
    rows, columns = _grid(size)
    down, right, side = place.uniform(-1, 1, 3)
    temporal = 1.0 if side > 0 else -1.0
    centre = np.array([0.5 + 0.05 * down, 0.5 + 0.05 * right - 0.04 * temporal])

    a, b, c, d, away, angle = shape.uniform(-1, 1, 6)
    radius, wide, tilt, cup_wide = config.disc_radius * (1 + 0.15 * a), 0.9 + 0.07 * b, 0.25 * c, 1 + 0.08 * d
    disc = Ellipse(rows - centre[0], columns - centre[1], radius, radius * wide, tilt)
    mask = (disc.reach <= 1).astype(np.uint8)
    softness = max(looks["blur"] * radius, 0.25 / size)
    step = config.disc_step * ndtr(-disc.distance / softness)
    if subject.cup:
        room = max(1 - _MARGIN - subject.cup * max(cup_wide, 1), 0)
        drift = (
            0.6 * radius * room * abs(away) * wide * np.array([np.sin(np.pi * angle), np.cos(np.pi * angle)])
        )
        height = radius * subject.cup
        cup = Ellipse(
            *(np.stack([rows, columns]) - (centre + drift)[:, None, None]),
            height,
            height * wide * cup_wide,
            tilt,
        )
        mask[cup.reach <= 1] = 2
        step += config.cup_step * ndtr(-cup.distance / softness)

    image = _light(config, subject, centre, temporal) + looks["contrast"] * step
    image += (
        config.texture * ndtr((disc.reach - 1.15) / 0.1) * _texture(config, subject, centre, temporal, disc)
    )
    if config.vessels:
        image *= 1 - config.vessels * draw_vessels(_draws(config, subject, "vessels"), size, centre, temporal)
    image += config.noise * noise.normal(size=image.shape)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), mask


def _draws(config: FundusConfig, subject: Subject, part: str) -> np.random.Generator:
    return rng.generator(config.seed, f"fundus/{part}", subject.number)


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row and the column of every pixel's middle, as shares of the image's side."""
    middle = (np.arange(size) + 0.5) / size
    return tuple(np.meshgrid(middle, middle, indexing="ij"))


def _light(
    config: FundusConfig, subject: Subject, centre: np.ndarray, temporal: float
) -> Float[np.ndarray, "h w"]:
    """Computes the uneven light, which falls off towards the corners and over the macula."""
    rows, columns = _grid(config.size)
    level, tilt_down, tilt_right = _draws(config, subject, "light").uniform(-1, 1, 3)
    down, right = rows - 0.5, columns - 0.5
    slope = 0.15 * (tilt_down * down + tilt_right * right) - 0.5 * (down**2 + right**2)
    macula = (rows - centre[0] - 0.04) ** 2 + (columns - centre[1] - 0.58 * temporal) ** 2
    brightness = np.mean(_BRIGHTNESS) + np.ptp(_BRIGHTNESS) / 2 * level
    return brightness * (1 + slope) * (1 - 0.25 * np.exp(-macula / (2 * 0.16**2)))


def _texture(
    config: FundusConfig, subject: Subject, centre: np.ndarray, temporal: float, disc: Ellipse
) -> Float[np.ndarray, "h w"]:
    """Draws mottle of standard deviation 1, and a layer of nerve fibres above and below the disc."""
    draws = _draws(config, subject, "texture")
    total = np.zeros((config.size, config.size))
    for (count, share), weights in zip(_GRAINS, _grain_weights(config.size), strict=True):
        total += share * weights @ draws.normal(size=(count + 3, count + 3)) @ weights.T
    rows, columns = _grid(config.size)
    angle = np.arctan2(rows - centre[0], temporal * (columns - centre[1]))
    bent = angle + 0.25 * np.cos(angle) * np.minimum(disc.reach, 4) * np.sign(np.sin(angle))
    heights, phases = draws.uniform(0, 2, len(_FIBRES)), draws.uniform(0, 2 * np.pi, len(_FIBRES))
    waves = sum(h * np.cos(k * bent + p) for k, h, p in zip(_FIBRES, heights, phases, strict=True))
    layer = np.exp(-(np.maximum(disc.reach - 1.3, 0) ** 2) / 2) * np.abs(np.sin(angle)) ** 1.5
    return total + 0.35 * layer * (1 + waves / np.sqrt(len(_FIBRES)))


@functools.lru_cache(maxsize=4)
def _grain_weights(size: int) -> list[Float[np.ndarray, "h k"]]:
    """Returns the weights with which pixels mix the knots of every grain; knots of variance 1 give pixels of variance 1."""
    middle, grains = (np.arange(size) + 0.5) / size, []
    for count, _ in _GRAINS:
        knots = np.arange(-1, count + 2) / count
        weights = np.exp(-(((middle[:, None] - knots) * count) ** 2) / (2 * 0.55**2))
        grains.append(weights / np.sqrt((weights**2).sum(1, keepdims=True)))
    return grains
