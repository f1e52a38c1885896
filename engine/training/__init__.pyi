from . import checkpoint, choosing, loop, machine, population, step, writers
from .checkpoint import Checkpoints, Damaged
from .choosing import best_step, choose_steps, restore
from .loop import Diverged, Preempted, train
from .machine import Machine

__all__ = [
    "Checkpoints",
    "Damaged",
    "Diverged",
    "Machine",
    "Preempted",
    "best_step",
    "checkpoint",
    "choose_steps",
    "choosing",
    "loop",
    "machine",
    "population",
    "restore",
    "step",
    "train",
    "writers",
]
