"""How groups, or sites, enter training: the methods that a run chooses from by ``--config.method.name``.

A group is a level of an attribute, or of an intersection of attributes, that has images to train on. An image of unknown
group is in no group, and never in another's: it trains with weight 1, trains no group head, and is scored by the model
of everyone. A method is a subclass of :class:`~equipoise.engine.methods.base.Method`; a new one is one line of
:data:`METHODS`.
"""

from typing import Any

from equipoise.engine.config import Run
from equipoise.engine.data import Split
from equipoise.engine.errors import UserError
from equipoise.engine.methods.balancing import Resampling, Reweighing
from equipoise.engine.methods.base import Method
from equipoise.engine.methods.febs import IntendedFEBS, ReleasedFEBS
from equipoise.engine.methods.federated import FedAvg, FedProx, FedTM, HarmonyTM, Travelling, find_sites
from equipoise.engine.methods.group_dro import GroupDRO
from equipoise.engine.methods.group_models import GroupModels
from equipoise.engine.methods.groups import trained
from equipoise.engine.methods.unlearning import Adversarial, Unlearning

__all__ = ["METHODS", "Method", "make"]

METHODS: dict[str, type[Method]] = {
    "erm": Method,
    "reweighing": Reweighing,
    "resampling": Resampling,
    "group_dro": GroupDRO,
    "unlearning": Unlearning,
    "adversarial": Adversarial,
    "group_models": GroupModels,
    "febs_released": ReleasedFEBS,
    "febs_intent": IntendedFEBS,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "travelling": Travelling,
    "harmony_tm": HarmonyTM,
    "fedtm": FedTM,
}


def make(config: Run, training: Split) -> Method:
    """The method that ``config.method`` names, made for a training split.

    Raises:
      UserError: for an attribute that makes no groups or sites, a label that is a number where classes are needed, or a run
        that cannot learn across sites.
    """
    kind, label, needs = METHODS[config.method.name], config.task.label, config.method.needs
    if kind is Method:
        return Method(config)
    is_number = label in training.vocabulary("labels") and training.vocabulary("labels")[label] is None
    if kind in (Reweighing, Resampling) and is_number:
        raise UserError(f"--config.method.name={config.method.name} needs classes, and {label!r} is a number")
    fields: dict[str, Any] = {"target": training.target(label)}
    if "group" in needs:
        groups = trained(training, config.method.group)
        fields |= {"groups": groups, "code": groups.code(training)}
    if "site" in needs:
        fields["sites"] = find_sites(config, training)
    return kind(config, **fields)
