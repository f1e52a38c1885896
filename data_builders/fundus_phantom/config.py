"""The settings of the fundus phantom: how many there are, how they look, and how hard each group is."""

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
      subjects: in all splits together, one image each.
      seed: of every draw.
      share_asian: of the subjects; shares of 9.2, 14.8 and 76 % are those of Harvard-FairSeg's training list.
      share_black: of the subjects; the rest are White.
      contrast_asian: factor of the steps at the edges of disc and cup, in this group; 0 hides them.
      contrast_black: the same.
      contrast_white: the same.
      blur_asian: standard deviation of the Gaussian that smooths these edges, as a share of the disc's radius.
      blur_black: the same.
      blur_white: the same.
      cup_asian: mean ratio of the cup's vertical diameter to the disc's.
      cup_black: the same.
      cup_white: the same.
      cup_sd: standard deviation of that ratio within a group.
      unknown_share: of the subjects, of whom race is not recorded; and so, one by one, each other attribute in words.
      no_cup_share: of the subjects of every group, whose disc has no cup.
      disc_radius: mean vertical radius of the disc, as a share of the image's side.
      disc_step: how much brighter the rim is than what surrounds it, at contrast 1; the range of the image is 1.
      cup_step: how much brighter the cup is than the rim.
      vessels: share of the light that the darkest vessels take.
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
        """What makes a group easy or hard: ``contrast``, ``blur`` and ``cup``."""
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
        """Every setting by name, and by group its share and difficulty, as the cohort records them."""
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
    """A configuration whose name says everything in it that is not its base's.

    Args:
      base: of :data:`CONFIGS`.
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
    """Setting -> what is wrong with its value; False or "" where nothing is."""
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
