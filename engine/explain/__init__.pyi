from . import features, gradients, linear_probe, probes, regions, saliency, worst_cases
from .gradients import gradient, smooth_grad
from .probes import Probed, probe_run
from .saliency import group_maps
from .worst_cases import WorstCase

__all__ = [
    "Probed",
    "WorstCase",
    "features",
    "gradient",
    "gradients",
    "group_maps",
    "linear_probe",
    "probe_run",
    "probes",
    "regions",
    "saliency",
    "smooth_grad",
    "worst_cases",
]
