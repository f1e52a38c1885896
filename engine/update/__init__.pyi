from . import losses, optim
from .preprocess import make_preprocess, preprocessed_shape
from .state import TrainState
from .sweep import Sweep
from .task import TaskKind

__all__ = [
    "Sweep",
    "TaskKind",
    "TrainState",
    "losses",
    "make_preprocess",
    "optim",
    "preprocessed_shape",
]
