"""Splits by subject, stratified, and the same wherever and whenever they are made."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from engine.config import UserError


def _rank(seed: int, subject: str) -> str:
    return hashlib.sha256(f"{seed}/{subject}".encode()).hexdigest()


def assign(strata: Mapping[str, str], fractions: Mapping[str, float], seed: int = 0) -> dict[str, str]:
    """Assigns every subject to one split.

    Within each stratum subjects are ordered by a hash of (seed, subject) and cut at the fractions. The rounding errors
    of successive strata are carried over, so that the totals are right too and small strata do not all round the same
    way. A subject that joins later moves others only across the cuts of its own stratum and by the carried rounding.

    Args:
      strata: subject -> stratum (any text: the cell of label and attributes within which to balance).
      fractions: split -> share, summing to 1.
      seed: another seed gives another assignment.

    Returns:
      Subject -> split, independent of the order of ``strata``.

    Raises:
      UserError: when the shares do not sum to 1.
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
      UserError: with the number of subjects that two splits share (never who they are).
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
