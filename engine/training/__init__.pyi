from . import checkpoint, choosing, loop, machine, opening, population, step, writers
from .checkpoint import Checkpoints, Damaged
from .choosing import best_step, choose_steps, restore
from .loop import Diverged, Preempted, train
from .machine import Machine
from .opening import open_run

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
    "open_run",
    "opening",
    "population",
    "restore",
    "step",
    "train",
    "writers",
]
