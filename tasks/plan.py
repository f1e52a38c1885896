"""What a longer piece of work is made of: commands in chains, chains in phases.

The stages of a chain follow each other; the chains of a phase are independent and may run side by side, on other machines too;
a phase begins when the one before it has ended.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
      title: what it does, for people; with how long it takes where that is known.
      command: words after ``equipoise``.
      is_repeated: whether it is done each time, as one that collects what others left.
    """

    title: str
    command: tuple[str, ...]
    is_repeated: bool = False


@dataclasses.dataclass(frozen=True)
class Chain:
    """Commands one after another: train a run, score it.

    Attributes:
      name: unique in its plan; also the name of its log.
      stages: in their order.
    """

    name: str
    stages: tuple[Stage, ...]


Plan = Sequence[Sequence[Chain]]
