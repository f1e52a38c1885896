"""The settings of a SimBA cohort: which scenarios there are, what a setting may be, and the name that says them all."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from data_builders import simba_anatomy
from data_builders.simba_velocity import LOCAL_MODELS
from engine.config import UserError, did_you_mean

BIAS, INTENSITY_BIAS = "bias", "intensity_bias"
VARIABILITIES = ("independent", "shared_scalar")
# Scenario -> effect -> the attribute that says in whom it is rendered.
SCENARIOS: dict[str, dict[str, str]] = {
    "none": {},
    "near": {"morphology": BIAS},
    "far": {"morphology": BIAS},
    "intensity": {"intensity": BIAS},
    "both": {"morphology": BIAS, "intensity": BIAS},
    "multi": {"morphology": BIAS, "intensity": INTENSITY_BIAS},
}


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class SimbaConfig(tfds.core.BuilderConfig):
    """One synthetic cohort.

    Attributes:
      scenario: which bias effects are rendered, of :data:`SCENARIOS`; with ``none``, groups are assigned but nothing is.
      resolution: voxel side, whole mm.
      counterfactual: render the test subjects only, with the bias flipped.
      flip: what a counterfactual flips: "bias"; in ``multi`` also "intensity_bias", or "all" of them.
      subjects: in all splits together.
      seed: of every draw.
      prevalence: share of subjects with the disease.
      bias_in_disease: share of the diseased who carry the bias (gamma).
      bias_in_healthy: share of the healthy who do (alpha).
      intensity_in_disease: share of the diseased who carry the second bias of ``multi``, with and without the first.
      intensity_in_healthy: share of the healthy who do.
      disease_region: a region's name, or its number in the label map.
      bias_region: the same for the bias; "": right putamen, and in ``far`` left postcentral gyrus.
      disease_mm: largest velocity of the disease effect at score 1.
      bias_mm: the same for the bias effect.
      contrast: factor of the intensity effect, about the middle of the image's range.
      local_model: how an effect deforms its region: "expansion" (it swells) or "mode" (it moves).
      effect_width_mm: standard deviation of the Gaussian that smooths a region into its effect.
      variability: of subjects: "independent" modes, or the original study's "shared_scalar" on all of them.
      subject_mm: standard deviation of a subject's velocity along each axis.
      subject_length_mm: length scale of the subject covariance.
      num_modes: of a subject's shape.
      noise: standard deviation of voxel noise, as a fraction of the brightest voxel.
      template: NIfTI file of another brain; "": MNI152.
      labels: NIfTI file of its regions, on the same grid.
      label_names: file of their names.
    """

    scenario: str = "near"
    resolution: int = 4
    counterfactual: bool = False
    flip: str = BIAS
    subjects: int = 2000
    seed: int = 0
    prevalence: float = 0.5
    bias_in_disease: float = 0.7
    bias_in_healthy: float = 0.3
    intensity_in_disease: float = 0.7
    intensity_in_healthy: float = 0.3
    disease_region: str = "right insula"
    bias_region: str = ""
    disease_mm: float = 2.5
    bias_mm: float = 2.5
    contrast: float = 1.2
    local_model: str = "expansion"
    effect_width_mm: float = 6.0
    variability: str = "independent"
    subject_mm: float = 1.5
    subject_length_mm: float = 40.0
    num_modes: int = 24
    noise: float = 0.01
    template: str = ""
    labels: str = ""
    label_names: str = ""

    @property
    def effects(self) -> Mapping[str, str]:
        """Effect -> the attribute that says in whom it is rendered."""
        return SCENARIOS[self.scenario]

    @property
    def biases(self) -> tuple[str, ...]:
        """The attributes that are groups of bias."""
        return tuple(dict.fromkeys((BIAS, *self.effects.values())))

    @property
    def flipped(self) -> tuple[str, ...]:
        """Those that this cohort renders the other way round."""
        if not self.counterfactual:
            return ()
        return self.biases if self.flip == "all" else (self.flip,)

    @property
    def regions(self) -> dict[str, tuple[int, str]]:
        """What ("disease", "bias") -> (label, name)."""
        names = self.label_map_names
        asked = {"disease": self.disease_region, "bias": self.bias_region or _bias_region(self.scenario)}
        found = {what: simba_anatomy.find_region(text, names) for what, text in asked.items()}
        return {what: (label, names.get(label, f"label {label}")) for what, label in found.items()}

    @property
    def label_map_names(self) -> Mapping[int, str]:
        """Label -> name of the label map; empty where it has none."""
        if self.label_names:
            return simba_anatomy.read_names(pathlib.Path(self.label_names).expanduser())
        return {} if self.labels else simba_anatomy.DESIKAN_KILLIANY

    def load_anatomy(self) -> simba_anatomy.Anatomy:
        """The template and its regions."""
        if not self.template:
            return simba_anatomy.load_mni152(self.resolution)
        template, labels = (pathlib.Path(file).expanduser() for file in (self.template, self.labels))
        return simba_anatomy.load_pair(template, labels, self.resolution)

    def design(self) -> dict[str, Any]:
        """Every setting by name, as the cohort records them: no file's path, only what is in it."""
        files = {"template": "MNI152", "labels": "Desikan-Killiany"}
        if self.template:
            files = dict.fromkeys(files, f"user:{simba_anatomy.fingerprint(self.template, self.labels)}")
        regions = {f"{what}_region": name for what, (_, name) in self.regions.items()}
        values = {f.name: getattr(self, f.name) for f in SETTINGS if f.name != "label_names"}
        return values | files | regions


SETTINGS = [
    f
    for f in dataclasses.fields(SimbaConfig)
    if f.name not in {g.name for g in dataclasses.fields(tfds.core.BuilderConfig)}
]
_IN_NAME = ("scenario", "resolution", "counterfactual")
_FILES = ("template", "labels", "label_names")
_REGIONS = ("disease_region", "bias_region")
_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
_CHOICES = {
    "scenario": tuple(SCENARIOS),
    "local_model": LOCAL_MODELS,
    "variability": VARIABILITIES,
    "flip": (BIAS, INTENSITY_BIAS, "all"),
}


def _bias_region(scenario: str) -> str:
    return "left postcentral gyrus" if scenario == "far" else "right putamen"


def make_config(**values: Any) -> SimbaConfig:
    """A config whose name says everything in it that is not a default.

    Raises:
      UserError: for a setting that does not exist, or a value that it may not have.
    """
    settings = {f.name: f for f in SETTINGS}
    for name, value in values.items():
        if name not in settings:
            raise UserError(
                f"simba has no setting {name!r}.{did_you_mean(name, settings)} It has: {', '.join(sorted(settings))}"
            )
        wanted = type(settings[name].default)
        if name in _REGIONS and type(value) is int:  # a label's number
            values[name] = str(value)
        elif type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"simba: {name}={value!r} must be {_KINDS[wanted]}")
    config = SimbaConfig(name="unnamed", **values)
    for name, problem in _problems(config).items():
        if problem:
            raise UserError(f"simba: {name}={getattr(config, name)!r} {problem}")
    config.name = _name(config)
    return config


def _problems(config: SimbaConfig) -> dict[str, str | bool]:
    """Setting -> what is wrong with its value; False or "" where nothing is."""
    problems: dict[str, str | bool] = {
        name: getattr(config, name) not in known
        and f"is none of {', '.join(known)}.{did_you_mean(getattr(config, name), known)}".removesuffix(".")
        for name, known in _CHOICES.items()
    }
    if any(problems.values()):
        return problems
    problems |= {
        "resolution": not 1 <= config.resolution <= 10 and "must be 1 to 10 mm",
        "subjects": config.subjects < 8 and "must be at least 8",
        "seed": not 0 <= config.seed < 2**31 - 1 and "must be 0 to 2147483646",
        "counterfactual": config.counterfactual
        and not config.effects
        and f"needs a bias to flip: choose {', '.join(s for s, e in SCENARIOS.items() if e)}",
        "flip": config.flip != BIAS
        and not (config.counterfactual and INTENSITY_BIAS in config.biases)
        and "is for counterfactuals of multi, which has two biases",
        "num_modes": not 1 <= config.num_modes <= 300 and "must be 1 to 300",
        "contrast": not 0 < config.contrast < math.inf and "must be a positive number",
        "labels": bool(config.labels) != bool(config.template)
        and "and template go together: give both files, or neither",
        "label_names": bool(config.label_names) and not config.labels and "names the regions of labels=FILE",
    }
    for name in (
        "prevalence",
        *(f.name for f in SETTINGS if f.name.endswith(("_in_disease", "_in_healthy"))),
    ):
        problems[name] = not 0 < getattr(config, name) < 1 and "must lie between 0 and 1"
    for name in ("effect_width_mm", "subject_length_mm"):
        problems[name] = not 0 < getattr(config, name) < math.inf and "must be a positive number"
    for name in ("disease_mm", "bias_mm", "subject_mm", "noise"):
        problems[name] = not 0 <= getattr(config, name) < math.inf and "must be 0 or a positive number"
    if not any(problems.values()):
        regions = config.regions
        problems["bias_region"] = regions["bias"] == regions["disease"] and "is the disease's own region"
    return problems


def _name(config: SimbaConfig) -> str:
    plain = SimbaConfig(name="unnamed", scenario=config.scenario)
    words = []
    for f in SETTINGS:
        value = getattr(config, f.name)
        if f.name in (*_IN_NAME, *_FILES) or value == f.default:
            continue
        if f.name in _REGIONS:
            what = f.name.removesuffix("_region")
            label = config.regions[what][0]
            if not config.labels and label == plain.regions[what][0]:
                continue
            words.append(f"{f.name}{label}")
        else:
            # Twelve digits: rounded to fewer, two seeds would share a name, and so a folder.
            words.append(f"{f.name}{value}" if isinstance(value, str) else f"{f.name}{value:.12g}")
    if config.template:
        words.append(f"pair{simba_anatomy.fingerprint(config.template, config.labels)}")
    flip = "_counterfactual" if config.counterfactual else ""
    return "_".join([f"{config.scenario}_{config.resolution}mm{flip}", *words])


def parse_config(text: str) -> dict[str, Any]:
    """The settings that ``near_4mm_counterfactual`` says.

    Raises:
      UserError: for text of another form.
    """
    match = re.fullmatch(r"(\w+?)_(\d+)mm(_counterfactual)?", text)
    if not match:
        raise UserError(
            f"simba: configuration {text!r} does not read as SCENARIO_RESOLUTIONmm[_counterfactual]"
        )
    return {"scenario": match[1], "resolution": int(match[2]), "counterfactual": bool(match[3])}
