"""Splits by subject: those that were published, and stratified ones that are the same wherever and whenever they are made."""

import hashlib
import math
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from equipoise.engine.errors import UserError


def _rank(seed: int, subject: str) -> str:
    """Returns the text by which subjects are ordered."""
    return hashlib.sha256(f"{seed}/{subject}".encode()).hexdigest()


def assign(strata: Mapping[str, str], fractions: Mapping[str, float], seed: int = 0) -> dict[str, str]:
    """Assigns every subject to one split.

    In each stratum, subjects are ordered by a hash of (seed, subject) and cut at the fractions. The rounding errors of one
    stratum are carried over to the next, so that the totals are right too, and small strata do not all round the same way.
    A subject that is added later moves only few others: those at the cuts of its own stratum, and those at cuts that the
    carried rounding shifts.

    Args:
      strata: subject -> stratum (any text, such as the label and the attributes to balance by).
      fractions: split -> share; the shares sum to 1.
      seed: another seed gives another assignment.

    Returns:
      Subject -> split, independent of the order of ``strata``.

    Raises:
      UserError: when a share is below 0, or the shares do not sum to 1.
    """
    if not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-9) or min(fractions.values()) < 0:
        raise UserError(f"split fractions {dict(fractions)} must be at least 0 and sum to 1")
    cells: dict[str, list[str]] = defaultdict(list)
    for subject, stratum in strata.items():
        cells[stratum].append(subject)
    assigned: dict[str, str] = {}
    owed = dict.fromkeys(fractions, 0.0)
    for stratum in sorted(cells):
        members = sorted(cells[stratum], key=lambda s: _rank(seed, s))
        wanted = {name: owed[name] + share * len(members) for name, share in fractions.items()}
        counts = {name: max(math.floor(value), 0) for name, value in wanted.items()}
        by_remainder = sorted(fractions, key=lambda name: (counts[name] - wanted[name], name))
        short = len(members) - sum(counts.values())
        for name in by_remainder[:short] if short > 0 else ():
            counts[name] += 1
        for name in reversed(by_remainder):
            while sum(counts.values()) > len(members) and counts[name]:
                counts[name] -= 1
        while sum(counts.values()) < len(members):
            counts[by_remainder[0]] += 1
        start = 0
        for name in fractions:
            assigned |= dict.fromkeys(members[start : start + counts[name]], name)
            start += counts[name]
            owed[name] = wanted[name] - counts[name]
    return assigned


def check_disjoint(members: Mapping[str, Iterable[str]]) -> None:
    """Checks that no subject is in two splits.

    Args:
      members: split -> subjects.

    Raises:
      UserError: with the number of subjects that two splits share (never with their names).
    """
    sets = {name: set(subjects) for name, subjects in members.items()}
    names = sorted(sets)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            shared = len(sets[a] & sets[b])
            if shared:
                raise UserError(
                    f"{shared} subject(s) are in both {a!r} and {b!r}: split by subject, not by image"
                )


def read_lists(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> dict[pathlib.Path, str | None]:
    """Reads ``train.txt``, ``test.txt`` and, where there is one, ``validation.txt``: one file name per line.

    Numbers in the lists may have more or fewer leading zeros than the names of the files: the first published lists had six
    digits, the files have five.

    Args:
      folder: of the lists.
      files: of the cohort.

    Returns:
      File -> split; None for files that are in no list.

    Raises:
      UserError: for a name that is listed twice, or that no file has; the message gives the list and the line.
    """
    by_name = {_unpadded(file): file for file in files}
    first: dict[str, str] = {}
    assigned: dict[pathlib.Path, str | None] = dict.fromkeys(files)
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.txt"
        for number, line in enumerate(path.read_text("utf-8").splitlines() if path.exists() else (), start=1):
            if not line.strip():
                continue
            name, place = _unpadded(pathlib.PurePath(line.strip())), f"{path.name}, line {number}"
            if name in first:
                raise UserError(
                    f"{place}: {line.strip()!r} is already listed in {first[name]}. A name that is repeated counts twice, and "
                    "one in two lists is tested on after it was trained on: list every name once, in one list"
                )
            if name not in by_name:
                raise UserError(
                    f"{place}: there is no file {line.strip()!r}. Complete the download, or leave the line out of a copy of "
                    "the lists and name its folder, --options=lists=FOLDER"
                )
            first[name] = place
            assigned[by_name[name]] = split
    return assigned


def _unpadded(path: pathlib.PurePath) -> str:
    """Returns the name of a file without its ending and without zeros before its number."""
    return re.sub(r"0*(\d+)$", r"\1", path.stem)
