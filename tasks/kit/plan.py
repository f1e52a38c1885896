"""What a longer piece of work is made of: commands in chains, chains in phases.

The stages of a chain follow each other; the chains of a phase are independent and may run side by side, on other machines too;
a phase begins when the one before it has ended.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence


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


def train_words(*words: str) -> tuple[str, ...]:
    """A command of training for a log."""
    return ("train", *words, "--config.writers.console=false")


def over_seeds(
    name: str,
    root: pathlib.Path,
    num_seeds: int,
    is_population: bool,
    stages: Callable[[pathlib.Path, pathlib.Path | None, str], tuple[Stage, ...]],
) -> list[Chain]:
    """One chain that trains every seed as a population, or a chain for each seed.

    Args:
      name: of the runs.
      root: their folder; seeds are in ``member_000``, ``member_001``, ..., one seed of a population in the folder itself.
      num_seeds: how many.
      is_population: whether they are one job.
      stages: of a chain, from (its folder, the first seed's folder where that is in it, the flag of its seeds).
    """
    if is_population:
        first = root / "member_000" if num_seeds > 1 else root
        return [Chain(name, stages(root, first, f"--config.population.seeds={num_seeds}"))]
    members = [root / f"member_{seed:03d}" for seed in range(num_seeds)]
    return [
        Chain(f"{name}-{seed}", stages(member, None if seed else member, f"--config.seed={seed}"))
        for seed, member in enumerate(members)
    ]


def run_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a study's runs, as :func:`over_seeds` lays them out: members of populations, and runs of a single seed."""
    roots = sorted((folder / "runs").glob("*"))
    return [place for root in roots for place in sorted(root.glob("member_*")) or [root]]
