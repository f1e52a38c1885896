"""The settings of the fundus phantom: the number of eyes, how they look, and how hard each group is to segment."""

import dataclasses
import math
from typing import Any

import tensorflow_datasets as tfds

from equipoise.data_builders.base import settings
from equipoise.data_builders.harvard.family import ATTRIBUTES
from equipoise.engine.errors import UserError, did_you_mean

GROUPS = ATTRIBUTES["race"].levels
DIFFICULTIES = ("contrast", "blur", "cup")


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class FundusConfig(tfds.core.BuilderConfig):
    """One synthetic cohort.

    Attributes:
      size: pixels along a side.
      subjects: number of subjects in all splits together, with one image each.
      seed: of every random draw.
      share_asian: share of the subjects who are Asian; the training list of Harvard-FairSeg has 9.2 % Asian, 14.8 % Black
        and 76 % White people.
      share_black: share of the subjects who are Black; the others are White.
      contrast_asian: factor by which the steps of brightness at the edges of disc and cup are multiplied in this group; 0
        hides the edges.
      contrast_black: the same for this group.
      contrast_white: the same for this group.
      blur_asian: standard deviation of the Gaussian that smooths these edges, as a share of the disc's radius.
      blur_black: the same for this group.
      blur_white: the same for this group.
      cup_asian: mean ratio of the vertical diameters of cup and disc.
      cup_black: the same for this group.
      cup_white: the same for this group.
      cup_sd: standard deviation of that ratio within a group.
      unknown_share: share of the subjects whose race is not recorded; every other attribute with levels is missing for as
        many subjects, drawn independently.
      no_cup_share: share of the subjects of every group whose disc has no cup.
      disc_radius: mean vertical radius of the disc, as a share of the image's side.
      disc_step: how much brighter the rim is than what surrounds it, at contrast 1; the range of the image is 1.
      cup_step: how much brighter the cup is than the rim.
      vessels: share of the light that the darkest vessels absorb.
      texture: standard deviation of the mottled background.
      noise: standard deviation of pixel noise.
    """

    size: int = 128
    subjects: int = 2000
    seed: int = 0
    share_asian: float = 0.092
    share_black: float = 0.148
    contrast_asian: float = 0.75
    contrast_black: float = 0.5
    contrast_white: float = 1.0
    blur_asian: float = 0.08
    blur_black: float = 0.12
    blur_white: float = 0.06
    cup_asian: float = 0.5
    cup_black: float = 0.6
    cup_white: float = 0.5
    cup_sd: float = 0.1
    unknown_share: float = 0.02
    no_cup_share: float = 0.02
    disc_radius: float = 0.16
    disc_step: float = 0.16
    cup_step: float = 0.2
    vessels: float = 0.5
    texture: float = 0.03
    noise: float = 0.03

    def difficulty(self, group: str) -> dict[str, float]:
        """Returns the three settings that make a group easy or hard: ``contrast``, ``blur`` and ``cup``."""
        return {name: getattr(self, f"{name}_{group.lower()}") for name in DIFFICULTIES}

    @property
    def shares(self) -> dict[str, float]:
        """Group -> share of the subjects."""
        return {
            "Asian": self.share_asian,
            "Black": self.share_black,
            "White": 1 - self.share_asian - self.share_black,
        }

    def design(self) -> dict[str, Any]:
        """Returns every setting by name, and the share and difficulty of every group, as the metadata hold them."""
        groups = {g: {"share": share} | self.difficulty(g) for g, share in self.shares.items()}
        return {f.name: getattr(self, f.name) for f in SETTINGS} | {"groups": groups}


SETTINGS = settings.fields(FundusConfig)
_EVEN = {
    f"{name}_{group.lower()}": getattr(FundusConfig, f"{name}_white")
    for name in DIFFICULTIES
    for group in GROUPS
}
CONFIGS: dict[str, dict[str, Any]] = {
    "standard": {},
    "demo": {"size": 64, "subjects": 800},
    "even": _EVEN,
}


def make_config(base: str = "standard", **values: Any) -> FundusConfig:
    """Makes a configuration whose name states every setting that differs from its base.

    Args:
      base: a name of :data:`CONFIGS`.
      **values: settings that differ.

    Raises:
      UserError: for a base or setting that does not exist, or a value that it may not have.
    """
    if base not in CONFIGS:
        raise UserError(
            f"cohort 'fundus_phantom' has no configuration {base!r}.{did_you_mean(base, CONFIGS)} "
            f"There are: {', '.join(CONFIGS)}"
        )
    settings.check_kinds("fundus_phantom", FundusConfig, values)
    usual = FundusConfig(name=base, **CONFIGS[base])
    config = dataclasses.replace(usual, **values)
    settings.refuse("fundus_phantom", config, _problems(config))
    config.name = "_".join([base, *settings.changed(config, usual)])
    return config


def _problems(config: FundusConfig) -> dict[str, str | bool]:
    """Returns setting -> what is wrong with its value; False or "" where nothing is wrong."""
    problems: dict[str, str | bool] = {
        "size": not 32 <= config.size <= 2048 and "must be 32 to 2048",
        "subjects": config.subjects < 10 and "must be at least 10",
        "seed": not 0 <= config.seed < 2**31 - 1 and "must be 0 to 2147483646",
        "share_black": config.share_asian + config.share_black > 1
        and "and share_asian must sum to 1 at most",
        "disc_radius": not 0.05 <= config.disc_radius <= 0.25 and "must be 0.05 to 0.25",
    }
    for name in ("share_asian", "share_black", "unknown_share", "no_cup_share"):
        problems[name] = problems.get(name) or (not 0 <= getattr(config, name) <= 1 and "must be 0 to 1")
    for group in GROUPS:
        for name, low, high in (("contrast", 0, 1.5), ("blur", 0, 0.5), ("cup", 0.2, 0.85)):
            value = config.difficulty(group)[name]
            problems[f"{name}_{group.lower()}"] = not low <= value <= high and f"must be {low:g} to {high:g}"
    for name, high in (("cup_sd", 0.3), ("vessels", 1), ("texture", 0.2), ("noise", 0.5)):
        problems[name] = not 0 <= getattr(config, name) <= high and f"must be 0 to {high:g}"
    for name in ("disc_step", "cup_step"):
        problems[name] = not 0 <= getattr(config, name) < math.inf and "must be 0 or a positive number"
    return problems
