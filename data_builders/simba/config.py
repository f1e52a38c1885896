"""The settings of a SimBA cohort: the scenarios, the values that a setting may have, and the name that states all of them."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from equipoise.data_builders.base import settings
from equipoise.data_builders.simba import anatomy, fields, sites, volume
from equipoise.data_builders.simba.velocity import LOCAL_MODELS
from equipoise.engine.errors import UserError

BIAS, INTENSITY_BIAS, SCANNER = "bias", "intensity_bias", "scanner"
VELOCITY_MODELS = ("process", "pca")
EFFECT_MODELS = (*LOCAL_MODELS, "component", "volume")
VARIABILITIES = ("independent", "shared_scalar")
# Scenario -> effect -> the attribute that says in which subjects the effect is rendered.
SCENARIOS: dict[str, dict[str, str]] = {
    "none": {},
    "near": {"morphology": BIAS},
    "far": {"morphology": BIAS},
    "intensity": {"intensity": BIAS},
    "both": {"morphology": BIAS, "intensity": BIAS},
    "multi": {"morphology": BIAS, "intensity": INTENSITY_BIAS},
    "sites": {},
}
# Settings whose default depends on the scenario, and settings that only some scenarios have.
_USUAL: dict[str, dict[str, Any]] = {"sites": {"subjects": sites.NUM_SCANS, "flip": SCANNER}}
_OF_SITES = ("validation_share", "class_spread", "scanner_strength", "sex_size")
_OF_BIAS = (
    "prevalence", "bias_in_disease", "bias_in_healthy", "intensity_in_disease", "intensity_in_healthy", "bias_region", "bias_mm", "bias_volume", "contrast",
)  # fmt: skip


def flips(scenario: str) -> tuple[str, ...]:
    """Returns what counterfactuals of a scenario can flip; nothing for a scenario without effects."""
    if scenario == "sites":
        return (SCANNER,)
    biases = tuple(dict.fromkeys(SCENARIOS[scenario].values()))
    return (*biases, "all") if len(biases) > 1 else biases


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class SimbaConfig(tfds.core.BuilderConfig):
    """One synthetic cohort.

    Attributes:
      scenario: a name of :data:`SCENARIOS`, which says which effects of bias are rendered. In ``none``, groups are assigned
        and nothing is rendered.
      resolution: voxel size, whole mm.
      counterfactual: whether only the test subjects are rendered, with the bias flipped.
      flip: what a counterfactual flips: "bias"; in ``multi`` also "intensity_bias", or "all" of them; in ``sites``
        "scanner": everyone is then shown as by the first scanner.
      subjects: number in all splits together. In ``sites`` there are the published 1,817; fewer are a sample of them,
        balanced by split and class.
      seed: of every random draw.
      prevalence: share of subjects with the disease.
      bias_in_disease: share of the diseased who carry the bias (gamma).
      bias_in_healthy: share of the healthy who carry the bias (alpha).
      intensity_in_disease: share of the diseased who carry the second bias of ``multi``, with or without the first.
      intensity_in_healthy: share of the healthy who carry it.
      disease_region: name of a region, or its number in the label map.
      bias_region: the same for the bias; "" is the right putamen, and in ``far`` the left postcentral gyrus.
      disease_mm: largest velocity of the disease effect at score 1, mm.
      bias_mm: the same for the bias effect.
      contrast: factor by which the intensity effect changes contrast, about the middle of the image's range.
      local_model: how an effect deforms its region: "expansion" (it swells), "mode" (it moves), "component" (as in the
        user's velocity fields) or "volume" (it gets the volume that the score asks for).
      effect_width_mm: standard deviation of the Gaussian that smooths a region into its effect, mm; with "volume", of the
        effect's fall-off away from the surface.
      disease_volume: with "volume": the fraction of a subject's own volume by which the region of the disease grows with
        each unit of the score.
      bias_volume: the same for the bias.
      velocity_model: how subjects are drawn: "process", a Gaussian process, or "pca", the principal components of
        velocity_fields.
      velocity_fields: folder of NIfTI velocity fields, one per registered subject.
      velocity_share: share of the variance of these fields that the components of subjects hold.
      variability: how the modes of a subject get their amplitudes: "independent", or "shared_scalar", the same for all modes
        as in the original study.
      subject_mm: standard deviation of a subject's velocity along each axis, mm.
      subject_length_mm: length scale of the covariance of subjects, mm.
      num_modes: number of modes of a subject's shape.
      noise: standard deviation of voxel noise, as a fraction of the brightest voxel.
      template: NIfTI file of another brain; "" is MNI152.
      labels: NIfTI file of its regions, on the same grid.
      label_names: file with the names of these regions.
      validation_share: share of the training scans of ``sites`` that become validation scans
        (:mod:`equipoise.data_builders.simba.sites`).
      class_spread: SD of the log odds of disease between the sites that have both classes.
      scanner_strength: factor of the scanners' effects on images (:mod:`equipoise.data_builders.simba.scanner`).
      sex_size: how much larger, in volume, brains of men are than brains of women: 0.1 is a tenth.
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
    disease_volume: float = 0.1
    bias_volume: float = 0.1
    velocity_model: str = "process"
    velocity_fields: str = ""
    velocity_share: float = 0.95
    variability: str = "independent"
    subject_mm: float = 1.5
    subject_length_mm: float = 40.0
    num_modes: int = 24
    noise: float = 0.01
    template: str = ""
    labels: str = ""
    label_names: str = ""
    validation_share: float = 0.1
    class_spread: float = 0.5
    scanner_strength: float = 1.0
    sex_size: float = 0.1

    @property
    def effects(self) -> Mapping[str, str]:
        """Effect -> the attribute that says in which subjects it is rendered."""
        return SCENARIOS[self.scenario]

    @property
    def has_sites(self) -> bool:
        """Whether people are drawn site by site."""
        return self.scenario == "sites"

    @property
    def biases(self) -> tuple[str, ...]:
        """The attributes that say who carries a bias."""
        return () if self.has_sites else tuple(dict.fromkeys((BIAS, *self.effects.values())))

    @property
    def flips(self) -> tuple[str, ...]:
        """The attributes that a counterfactual can flip."""
        return flips(self.scenario)

    @property
    def flipped(self) -> tuple[str, ...]:
        """The attributes that this cohort renders flipped."""
        if not self.counterfactual:
            return ()
        return self.biases if self.flip == "all" else (self.flip,)

    @property
    def regions(self) -> dict[str, tuple[int, str]]:
        """(label, name) of the region of "disease", and of "bias" where subjects carry one."""
        names = self.label_map_names
        asked = {"disease": self.disease_region}
        if not self.has_sites:
            asked["bias"] = self.bias_region or _bias_region(self.scenario)
        labels = {what: anatomy.find_region(text, names) for what, text in asked.items()}
        return {what: (label, names.get(label, f"label {label}")) for what, label in labels.items()}

    @property
    def label_map_names(self) -> Mapping[int, str]:
        """Label -> name of the regions in the label map; empty where they have no names."""
        if self.label_names:
            return anatomy.read_names(pathlib.Path(self.label_names).expanduser())
        return {} if self.labels else anatomy.DESIKAN_KILLIANY

    def effect_size(self, effect: str) -> float:
        """Returns the factor of the fields of "disease" or "morphology": mm, or 1 where their model sets their size."""
        if self.local_model not in LOCAL_MODELS:
            return 1.0
        return self.disease_mm if effect == "disease" else self.bias_mm

    def volume_step(self, effect: str) -> float:
        """Returns the fraction by which the region of "disease" or "morphology" grows with each unit of its score."""
        return self.disease_volume if effect == "disease" else self.bias_volume

    def template_grid(self) -> anatomy.VoxelGrid:
        """Reads the grid of the template's file, on which velocity fields must be."""
        return anatomy.template_grid(pathlib.Path(self.template).expanduser() if self.template else None)

    def field_files(self) -> list[pathlib.Path]:
        """Lists the user's velocity fields, in the order of their names.

        Raises:
          UserError: when the folder is missing, or holds anything else.
        """
        return fields.list_fields(pathlib.Path(self.velocity_fields).expanduser())

    def load_anatomy(self) -> anatomy.Anatomy:
        """Loads the template and its regions."""
        if not self.template:
            return anatomy.load_mni152(self.resolution)
        template, labels = (pathlib.Path(file).expanduser() for file in (self.template, self.labels))
        return anatomy.load_pair(template, labels, self.resolution)

    def design(self) -> dict[str, Any]:
        """Returns every setting of the scenario by name, as the metadata hold them: of files the contents, never the path."""
        files = {"template": "MNI152", "labels": "Desikan-Killiany"}
        if self.template:
            files = dict.fromkeys(files, f"user:{settings.fingerprint(self.template, self.labels)}")
        if self.velocity_fields:
            files["velocity_fields"] = f"user:{settings.fingerprint(*map(str, self.field_files()))}"
        regions = {f"{what}_region": name for what, (_, name) in self.regions.items()}
        left_out = {"label_names", *foreign(self.scenario)}
        values = {f.name: getattr(self, f.name) for f in SETTINGS if f.name not in left_out}
        return values | files | regions


SETTINGS = settings.fields(SimbaConfig)
_IN_NAME = ("scenario", "resolution", "counterfactual")
_FILES = ("template", "labels", "label_names", "velocity_fields")
_REGIONS = ("disease_region", "bias_region")
_CHOICES = {
    "scenario": tuple(SCENARIOS),
    "local_model": EFFECT_MODELS,
    "velocity_model": VELOCITY_MODELS,
    "variability": VARIABILITIES,
    "flip": (BIAS, INTENSITY_BIAS, "all", SCANNER),
}


# Setting -> the setting that decides whether it is read, and the values with which it is read.
_READ_WITH = {
    "subject_mm": ("velocity_model", ("process",)),
    "subject_length_mm": ("velocity_model", ("process",)),
    "num_modes": ("velocity_model", ("process",)),
    "velocity_share": ("velocity_model", ("pca",)),
    "disease_mm": ("local_model", LOCAL_MODELS),
    "bias_mm": ("local_model", LOCAL_MODELS),
    "disease_volume": ("local_model", ("volume",)),
    "bias_volume": ("local_model", ("volume",)),
}


def _bias_region(scenario: str) -> str:
    return "left postcentral gyrus" if scenario == "far" else "right putamen"


def _usual(scenario: str = SimbaConfig.scenario, **values: Any) -> SimbaConfig:
    """Makes the default configuration of a scenario, with some settings changed."""
    return SimbaConfig(name="unnamed", **{"scenario": scenario} | _USUAL.get(scenario, {}) | values)


def foreign(scenario: str) -> tuple[str, ...]:
    """Returns the settings that a scenario does not have."""
    return _OF_BIAS if scenario == "sites" else _OF_SITES


def make_config(**values: Any) -> SimbaConfig:
    """Makes a configuration whose name states every setting that is not the default.

    Raises:
      UserError: for a setting that does not exist, or a value that it may not have.
    """
    if values.get("velocity_model") == "pca":
        values.setdefault("local_model", "component")
    for name in _REGIONS:
        if type(values.get(name)) is int:  # a label's number
            values[name] = str(values[name])
    settings.check_kinds("simba", SimbaConfig, values)
    config = _usual(**values)
    settings.refuse("simba", config, _problems(config))
    config.name = _name(config)
    return config


def _problems(config: SimbaConfig) -> dict[str, str | bool]:
    """Returns setting -> what is wrong with its value; False or "" where nothing is wrong."""
    problems: dict[str, str | bool] = dict(settings.unknown_choices(config, _CHOICES))
    if problems:
        return problems
    most = sites.NUM_SCANS if config.has_sites else math.inf
    problems |= {
        "resolution": not 1 <= config.resolution <= 10 and "must be 1 to 10 mm",
        "subjects": not 8 <= config.subjects <= most
        and "must be at least 8" + (f" and at most {most}" if config.has_sites else ""),
        "seed": not 0 <= config.seed < 2**31 - 1 and "must be 0 to 2147483646",
        "counterfactual": config.counterfactual
        and (
            (not config.flips and f"needs a bias to flip: choose {', '.join(filter(flips, SCENARIOS))}")
            or (
                config.has_sites
                and not config.scanner_strength
                and "needs scanners to flip: scanner_strength is 0"
            )
        ),
        "flip": config.flip != _usual(config.scenario).flip
        and not (config.counterfactual and config.flip in config.flips)
        and f"is for counterfactuals of {', '.join(s for s in SCENARIOS if config.flip in flips(s))}",
        "num_modes": not 1 <= config.num_modes <= 300 and "must be 1 to 300",
        "contrast": not 0 < config.contrast < math.inf and "must be a positive number",
        "labels": bool(config.labels) != bool(config.template)
        and "and template go together: give both files, or neither",
        "label_names": bool(config.label_names) and not config.labels and "names the regions of labels=FILE",
        "velocity_fields": bool(config.velocity_fields) != (config.velocity_model == "pca")
        and "and velocity_model=pca go together: give both, or neither",
        "velocity_share": not 0 < config.velocity_share <= 1 and "must be above 0, and 1 at most",
        "local_model": config.local_model == "component"
        and config.velocity_model != "pca"
        and "needs velocity_model=pca and velocity_fields=FOLDER",
    }
    for name in (
        "prevalence",
        *(f.name for f in SETTINGS if f.name.endswith(("_in_disease", "_in_healthy"))),
    ):
        problems[name] = not 0 < getattr(config, name) < 1 and "must lie between 0 and 1"
    for name in ("effect_width_mm", "subject_length_mm"):
        problems[name] = not 0 < getattr(config, name) < math.inf and "must be a positive number"
    for name in (
        "disease_mm", "bias_mm", "disease_volume", "bias_volume", "subject_mm", "noise", "class_spread", "scanner_strength",
    ):  # fmt: skip
        problems[name] = not 0 <= getattr(config, name) < math.inf and "must be 0 or a positive number"
    for name in ("validation_share", "sex_size"):
        problems[name] = not 0 <= getattr(config, name) <= 0.5 and "must be 0 to 0.5"
    plain = _usual(config.scenario)
    for name in foreign(config.scenario):
        if getattr(config, name) != getattr(plain, name):
            problems[name] = "has no meaning in sites" if config.has_sites else "is only for sites"
    width = volume.LEAST_WIDTH * config.resolution
    if config.local_model == "volume" and not problems["effect_width_mm"]:
        problems["effect_width_mm"] = (
            config.effect_width_mm < width
            and f"must be at least {width:g} at {config.resolution} mm with local_model=volume"
        )
    for name, (decides, values) in _READ_WITH.items():
        if getattr(config, decides) not in values and getattr(config, name) != getattr(SimbaConfig, name):
            problems[name] = f"is read only with {decides}={' or '.join(values)}"
    if not any(problems.values()):
        regions = config.regions
        problems["bias_region"] = regions.get("bias") == regions["disease"] and "is the disease's own region"
    return problems


def _name(config: SimbaConfig) -> str:
    plain = _usual(config.scenario)
    labels = {f"{what}_region": label for what, (label, _) in config.regions.items()}
    usual = {f"{what}_region": label for what, (label, _) in plain.regions.items()}
    same = [name for name in labels if not config.labels and labels[name] == usual[name]]
    words = settings.changed(
        config, plain, but=(*_IN_NAME, *_FILES, *same), texts={name: str(k) for name, k in labels.items()}
    )
    if config.template:
        words.append(f"pair{settings.fingerprint(config.template, config.labels)}")
    if config.velocity_fields:
        words.append(f"fields{settings.fingerprint(*map(str, config.field_files()))}")
    flip = "_counterfactual" if config.counterfactual else ""
    return "_".join([f"{config.scenario}_{config.resolution}mm{flip}", *words])


def parse_config(text: str) -> dict[str, Any]:
    """Reads the settings in a name such as ``near_4mm_counterfactual``.

    Raises:
      UserError: for text of another form.
    """
    match = re.fullmatch(r"(\w+?)_(\d+)mm(_counterfactual)?", text)
    if not match:
        raise UserError(
            f"simba: configuration {text!r} does not read as SCENARIO_RESOLUTIONmm[_counterfactual]"
        )
    return {"scenario": match[1], "resolution": int(match[2]), "counterfactual": bool(match[3])}
